"""A package gives the network back, bit for bit, or says why not."""

import copy
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from lwdc.architecture import Architecture
from lwdc.backbones import Backbone
from lwdc.candidates import registry
from lwdc.candidates.grouped import grouped
from lwdc.data import Preprocessing
from lwdc.errors import ExportError, LwdcError, WriteError
from lwdc.export import load, read_description, save
from lwdc.export.package import imports_of
from lwdc.surgery import rebuild, wrap

IMAGES = torch.linspace(-2, 2, 5 * 64).view(5, 1, 8, 8)


class Own(nn.Module):
    """A network that timm does not know: two convolutions, the second used twice."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.body = nn.Conv2d(channels, channels, 3, padding=1)
        self.again = self.body
        self.head = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.body(torch.relu(self.stem(x))))
        return self.head(torch.relu(self.again(x)).mean((2, 3)))


OWN = Architecture({"body": {"op": "grouped", "groups": 2}})


@pytest.fixture
def package(compressed: Any, tmp_path: Path) -> Path:
    """A sound package."""
    save(tmp_path, compressed.network, compressed.architecture, **compressed.facts)
    return tmp_path


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Apply ``change`` to the description on disk."""
    data = json.loads((folder / "model.json").read_text())
    change(data)
    (folder / "model.json").write_text(json.dumps(data))


def test_a_loaded_package_computes_what_the_saved_network_did(compressed: Any, package: Path) -> None:
    network = load(package)
    assert not network.training
    assert torch.equal(network(IMAGES), compressed.network(IMAGES))
    assert network.state_dict().keys() == compressed.network.state_dict().keys()


def test_a_fresh_process_computes_the_same_bits(compressed: Any, package: Path) -> None:
    safetensors.torch.save_file({"images": IMAGES}, package / "images.safetensors")
    script = (
        "import hashlib, sys, torch, lwdc.export, safetensors.torch\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "images = safetensors.torch.load_file(sys.argv[1] + '/images.safetensors')['images']\n"
        "with torch.no_grad():\n"
        "    logits = lwdc.export.load(sys.argv[1])(images)\n"
        "print(hashlib.sha256(logits.numpy().tobytes()).hexdigest())\n"
    )
    run = subprocess.run([sys.executable, "-c", script, str(package)], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    with torch.no_grad():
        expected = compressed.network(IMAGES).numpy().tobytes()
    assert run.stdout.strip() == hashlib.sha256(expected).hexdigest()


def test_the_description_tells_where_the_network_comes_from_and_how_to_use_it(compressed: Any, package: Path) -> None:
    description = read_description(package)
    assert description.backbone == compressed.backbone
    assert description.architecture == compressed.architecture
    assert description.deployment.preprocessing == compressed.preprocessing
    assert description.deployment.class_names == compressed.class_names
    data = json.loads((package / "model.json").read_text())
    assert data["input_shape"] == [1, 8, 8] and data["layout"] == "NCHW" and data["opset"] == 18
    assert data["operators"]["low_rank"] == "lwdc.candidates.low_rank"


def test_saving_and_loading_leave_networks_and_random_state_alone(compressed: Any, tmp_path: Path) -> None:
    fresh = Own()
    network = rebuild(fresh, OWN, (1, 8, 8))
    before, state = torch.random.get_rng_state(), copy.deepcopy(fresh.state_dict())
    save(tmp_path / "own", network, OWN, input_size=(1, 8, 8))
    load(tmp_path / "own", fresh)
    save(tmp_path / "timm", compressed.network, compressed.architecture, **compressed.facts)
    load(tmp_path / "timm")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert network.training and fresh.training
    assert all(torch.equal(value, state[name]) for name, value in fresh.state_dict().items())


def test_a_network_that_timm_does_not_know_is_loaded_into_a_fresh_one(tmp_path: Path) -> None:
    network = rebuild(Own(), OWN, (1, 8, 8)).eval()
    save(tmp_path, network, OWN, input_size=(1, 8, 8))
    assert torch.equal(load(tmp_path, Own())(IMAGES), network(IMAGES))


def test_shared_weights_are_stored_once_and_stay_shared(tmp_path: Path) -> None:
    network = rebuild(Own(), OWN, (1, 8, 8))
    weights, _ = save(tmp_path, network, OWN, input_size=(1, 8, 8))
    assert not any(name.startswith("again") for name in safetensors.torch.load_file(weights))
    loaded = load(tmp_path, Own())
    assert loaded.again is loaded.body


def test_weights_of_any_layout_and_precision_come_back_as_they_were(tmp_path: Path) -> None:
    network = rebuild(Own(), OWN, (1, 8, 8)).eval().double()
    network.head.weight = nn.Parameter(torch.randn(16, 6, dtype=torch.float64).t()[::2, ::2])
    network.stem.weight = nn.Parameter(network.stem.weight.detach().to(memory_format=torch.channels_last))
    save(tmp_path, network, OWN, input_size=(1, 8, 8))
    loaded = load(tmp_path, Own())
    assert loaded.head.weight.dtype == torch.float64 and loaded.head.weight.is_contiguous()
    assert torch.allclose(loaded(IMAGES.double()), network(IMAGES.double()), rtol=0, atol=1e-14)
    own = network.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in loaded.state_dict().items())


def test_a_package_can_be_written_over_another(compressed: Any, package: Path) -> None:
    save(package, compressed.network, compressed.architecture, **compressed.facts)
    load(package)
    assert sorted(path.name for path in package.iterdir()) == ["model.json", "model.safetensors"]


# What cannot be saved


def test_a_supernet_is_not_saved(tmp_path: Path) -> None:
    supernet = wrap(Own(), input_size=(1, 8, 8))
    with pytest.raises(ExportError, match=r"supernet.*lwdc\.discretise"):
        save(tmp_path, supernet, OWN, input_size=(1, 8, 8))


def test_a_network_that_could_not_be_loaded_again_is_not_saved(compressed: Any, tmp_path: Path) -> None:
    other = Architecture({**compressed.architecture.choices, "layer1.0.conv1": {"op": "original"}})
    with pytest.raises(ExportError, match=r"could not be loaded again.*layer1\.0\.conv1\.weight \(16, 4, 3, 3\)"):
        save(tmp_path, compressed.network, other, **compressed.facts)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": ["a", "b"]}, "2 class names for num_classes=10"),
        ({"input_size": (1, 16, 16)}, r"makes inputs of \(1, 8, 8\), but input_size is \(1, 16, 16\)"),
        ({"backbone": Backbone("cifar_resnet8", 10, 3)}, r"1 channel\(s\), the backbone takes in_chans=3"),
        (
            {"backbone": Backbone("cifar_resnet8", 10, 1, {"shortcut": nn.Identity})},
            "cannot be written to a package",
        ),
        ({"backbone": Backbone("cifar_resnet9", 10, 1)}, "could not be loaded again: unknown backbone"),
    ],
)
def test_contradictions_are_refused(compressed: Any, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        save(tmp_path, compressed.network, compressed.architecture, **{**compressed.facts, **change})
    assert not list(tmp_path.iterdir())


def test_a_network_that_does_not_know_its_images_needs_an_input_size(tmp_path: Path) -> None:
    with pytest.raises(LwdcError, match="give input_size"):
        save(tmp_path, Own(), Architecture({}))


def test_a_folder_that_cannot_be_written_is_one_clear_line(compressed: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match=r"file/model\.safetensors cannot be written"):
        save(tmp_path / "file", compressed.network, compressed.architecture, **compressed.facts)


# What cannot be loaded


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_missing_file_is_named(package: Path, name: str) -> None:
    (package / name).unlink()
    with pytest.raises(ExportError, match=rf"{name} (is missing|cannot be read)"):
        load(package)


def test_damaged_json_is_refused(package: Path) -> None:
    (package / "model.json").write_text('{"format": 1, "backb')
    with pytest.raises(ExportError, match=r"model\.json cannot be read.*export the network again"):
        load(package)


@pytest.mark.parametrize("text", ["[]", "null", "{}", '"text"'])
def test_other_json_is_refused(package: Path, text: str) -> None:
    (package / "model.json").write_text(text)
    with pytest.raises(ExportError, match=r"model\.json cannot be used: it does not describe a package"):
        load(package)


@pytest.mark.parametrize("key", ["architecture", "backbone", "input_shape", "preprocessing", "operators", "weights"])
def test_json_that_lacks_an_entry_is_refused(package: Path, key: str) -> None:
    edit(package, lambda data: data.pop(key))
    with pytest.raises(ExportError, match=r"damaged|does not say"):
        load(package)


@pytest.mark.parametrize("key", ["architecture", "backbone", "input_shape", "preprocessing", "operators", "weights"])
def test_json_with_an_entry_of_another_kind_is_refused(package: Path, key: str) -> None:
    edit(package, lambda data: data.update({key: 7}))
    with pytest.raises(ExportError, match=r"damaged|does not say"):
        load(package)


@pytest.mark.parametrize(
    "change", [{"operators": {"original": 5}}, {"operators": {"original": None}}, {"backbone_module": ["x"]}]
)
def test_modules_that_are_no_text_are_refused(package: Path, change: dict[str, Any]) -> None:
    edit(package, lambda data: data.update(change))
    for read in (load, imports_of):
        with pytest.raises(ExportError, match="damaged"):
            read(package)


def test_a_package_that_would_load_other_weights_is_not_trusted(package: Path) -> None:
    edit(package, lambda data: data["backbone"]["options"].update(checkpoint_path="other.pth"))
    with pytest.raises(ExportError, match=r"\['checkpoint_path'\], which lwdc never writes"):
        load(package)


def test_where_the_first_weights_came_from_is_not_written(compressed: Any, tmp_path: Path) -> None:
    backbone = Backbone("cifar_resnet8", 10, 1, {"pretrained": True, "drop_rate": 0.1})
    save(tmp_path, compressed.network, compressed.architecture, **compressed.facts | {"backbone": backbone})
    assert read_description(tmp_path).backbone == Backbone("cifar_resnet8", 10, 1, {"drop_rate": 0.1})


def test_another_format_version_is_refused(package: Path) -> None:
    edit(package, lambda data: data.update(format=2, lwdc_version="9.0"))
    with pytest.raises(ExportError, match=r"format 2, written by lwdc 9\.0; .* reads format 1"):
        load(package)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_truncated_weights_are_refused(package: Path, share: float) -> None:
    content = (package / "model.safetensors").read_bytes()
    (package / "model.safetensors").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ExportError, match=r"model\.safetensors .* is not the file that model\.json belongs to"):
        load(package)


def test_weights_of_another_save_are_refused(compressed: Any, package: Path) -> None:
    other = copy.deepcopy(compressed.network)
    other.linear.bias.data += 1
    weights, _ = save(package / "other", other, compressed.architecture, **compressed.facts)
    weights.replace(package / "model.safetensors")
    with pytest.raises(ExportError, match="one is damaged or from another export"):
        load(package)


def test_weights_that_are_no_safetensors_are_refused(package: Path) -> None:
    (package / "model.safetensors").write_bytes(b"not tensors")
    digest = hashlib.sha256(b"not tensors").hexdigest()
    edit(package, lambda data: data["weights"].update(sha256=digest, bytes=11))
    with pytest.raises(ExportError, match=r"model\.safetensors cannot be read"):
        load(package)


@pytest.mark.parametrize(
    ("module", "cure"),
    [
        ("my_operators", "import my_operators before loading"),
        ("__main__", "the script that saved the package registers it"),
        ("lwdc.candidates.later", "update lwdc"),
    ],
)
def test_an_operator_that_is_not_registered_names_the_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, cure: str
) -> None:
    def mine(site: Any, *, groups: int) -> Any:
        return grouped(site, groups=groups)

    mine.__module__ = module
    architecture = Architecture({"body": {"op": "mine", "groups": 2}})
    with monkeypatch.context() as patch:
        patch.setattr(registry, "_BUILDERS", {**registry._BUILDERS, "mine": mine})
        network = rebuild(Own(), architecture, (1, 8, 8))
        save(tmp_path, network, architecture, input_size=(1, 8, 8))
        load(tmp_path, Own())
    with pytest.raises(ExportError, match=f"operator 'mine', which is unknown here; .*{cure}"):
        load(tmp_path, Own())


def test_an_operator_within_a_sum_names_the_import_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mine(site: Any, *, groups: int) -> Any:
        return grouped(site, groups=groups)

    mine.__module__ = "my_operators"
    made_of = [{"op": "mine", "groups": 2}, {"op": "low_rank", "ratio": 0.25}]
    architecture = Architecture({"body": {"op": "sum", "of": made_of}})
    with monkeypatch.context() as patch:
        patch.setattr(registry, "_BUILDERS", {**registry._BUILDERS, "mine": mine})
        network = rebuild(Own(), architecture, (1, 8, 8)).eval()
        save(tmp_path, network, architecture, input_size=(1, 8, 8))
        assert torch.equal(load(tmp_path, Own())(IMAGES), network(IMAGES))
    operators = json.loads((tmp_path / "model.json").read_text())["operators"]
    assert operators == {
        "sum": "lwdc.candidates.sums", "mine": "my_operators", "low_rank": "lwdc.candidates.low_rank"
    }  # fmt: skip
    with pytest.raises(ExportError, match="operator 'mine', which is unknown here; import my_operators"):
        load(tmp_path, Own())


def test_all_that_is_not_registered_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mine(site: Any, *, groups: int) -> Any:
        return grouped(site, groups=groups)

    def net_that_goes(pretrained: bool = False, **given: Any) -> nn.Module:
        names = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
        return timm.create_model("cifar_resnet8", **{k: v for k, v in given.items() if k not in names})

    mine.__module__, net_that_goes.__module__ = "my_package.operators", "my_package.networks"
    backbone = Backbone("net_that_goes", 10, 1, {"channels": [4, 8, 8]})
    architecture = Architecture({"layer1.0.conv1": {"op": "mine", "groups": 2}})
    with monkeypatch.context() as patch:
        patch.setattr(registry, "_BUILDERS", {**registry._BUILDERS, "mine": mine})
        patch.setitem(timm.models._registry._model_entrypoints, "net_that_goes", net_that_goes)
        network = rebuild(backbone.create(), architecture, (1, 8, 8))
        save(tmp_path, network, architecture, backbone=backbone, input_size=(1, 8, 8))
        load(tmp_path)
        assert [line.split()[1] for line in imports_of(tmp_path).splitlines()] == [
            "my_package.networks", "my_package.operators"
        ]  # fmt: skip
    with pytest.raises(ExportError) as refused:
        load(tmp_path)
    assert (
        "uses operator 'mine', backbone 'net_that_goes', which are unknown here; import my_package.networks and "
        "my_package.operators before loading, to register what is in there; on the command line by "
        "trust=my_package.networks,my_package.operators."
    ) in str(refused.value)
    edit(tmp_path, lambda data: data.pop("backbone_module"))  # as earlier versions wrote it
    edit(tmp_path, lambda data: data.update(operators={}, architecture={"format": 1, "choices": {}}))
    with pytest.raises(ExportError, match="unknown backbone 'net_that_goes'"):
        load(tmp_path)


def test_a_package_without_a_backbone_asks_for_the_network(tmp_path: Path) -> None:
    save(tmp_path, rebuild(Own(), OWN, (1, 8, 8)), OWN, input_size=(1, 8, 8))
    with pytest.raises(ExportError, match=r"names no timm network: .*lwdc\.load\(folder, model=\.\.\.\)"):
        load(tmp_path)


def test_a_network_with_other_layers_is_refused(tmp_path: Path) -> None:
    save(tmp_path, rebuild(Own(), OWN, (1, 8, 8)), OWN, input_size=(1, 8, 8))
    with pytest.raises(ExportError, match=r"do not fit the model given: .*stem\.weight \(8, 1, 3, 3\) instead of"):
        load(tmp_path, Own(channels=16))
    with pytest.raises(ExportError, match=r"cannot be built: the architecture replaces \['body'\]"):
        load(tmp_path, nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten()))


def test_preprocessing_and_class_names_are_optional(compressed: Any, tmp_path: Path) -> None:
    save(
        tmp_path,
        compressed.network,
        compressed.architecture,
        backbone=compressed.backbone,
        input_size=(1, 8, 8),
    )
    deployment = read_description(tmp_path).deployment
    assert deployment.preprocessing is None and deployment.class_names is None
    assert torch.equal(load(tmp_path)(IMAGES), compressed.network(IMAGES))


def test_resize_and_crop_travel_in_the_package(compressed: Any, tmp_path: Path) -> None:
    preprocessing = Preprocessing((1, 8, 8), "L", 1 / 255, (0.3,), (0.4,), 10, (8, 8), "bicubic")
    save(
        tmp_path,
        compressed.network,
        compressed.architecture,
        **compressed.facts | {"preprocessing": preprocessing},
    )
    assert read_description(tmp_path).deployment.preprocessing == preprocessing

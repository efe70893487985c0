"""Weights of a file: all of them, or a line that says what does not fit."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from lwdc.backbones import load_weights
from lwdc.errors import BackboneError


def tiny(num_classes: int = 10, **options: Any) -> nn.Module:
    return timm.create_model("cifar_resnet8", num_classes=num_classes, channels=(4, 8, 16), **options)


def saved(state: Any, path: Path) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path


def same(a: nn.Module, b: nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in a.state_dict().items())


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt", "weights.pth"])
def test_a_plain_state_dict_is_loaded(name: str, tmp_path: Path) -> None:
    trained, fresh = tiny(), tiny()
    assert load_weights(fresh, saved(trained.state_dict(), tmp_path / name)) == []
    assert same(trained, fresh)


@pytest.mark.parametrize("container", ["state_dict", "model", "state_dict_ema", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "model._orig_mod.", "module.model."])
def test_checkpoints_and_prefixes_are_unwrapped(container: str, prefix: str, tmp_path: Path) -> None:
    trained, fresh = tiny(), tiny()
    state = {prefix + key: value for key, value in trained.state_dict().items()}
    checkpoint = {"epoch": 3, container: state, "optimizer": {"lr": 0.1}}
    assert load_weights(fresh, saved(checkpoint, tmp_path / "checkpoint.pt")) == []
    assert same(trained, fresh)


def test_averaged_weights_are_preferred_and_said_so(tmp_path: Path) -> None:
    trained, averaged, fresh = tiny(), tiny(), tiny()
    checkpoint = {"state_dict": trained.state_dict(), "state_dict_ema": averaged.state_dict()}
    notes = load_weights(fresh, saved(checkpoint, tmp_path / "checkpoint.pt"))
    assert notes == ["checkpoint.pt holds state_dict_ema and state_dict: 'state_dict_ema' is used."]
    assert same(averaged, fresh)


def test_torchs_averaged_model_is_unwrapped(tmp_path: Path) -> None:
    averaged, fresh = torch.optim.swa_utils.AveragedModel(tiny()), tiny()
    load_weights(fresh, saved(averaged.state_dict(), tmp_path / "averaged.pt"))
    assert same(averaged.module, fresh)


def test_a_compiled_part_is_unwrapped(tmp_path: Path) -> None:
    trained, fresh = tiny(), tiny()
    state = {key.replace("layer1.", "layer1._orig_mod."): v for key, v in trained.state_dict().items()}
    load_weights(fresh, saved(state, tmp_path / "weights.pt"))
    assert same(trained, fresh)


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_vgg16_bn", "test_efficientnet", "test_vit"])
def test_a_classifier_of_another_size_stays_fresh_and_is_said_so(name: str, tmp_path: Path) -> None:
    trained, fresh = timm.create_model(name, num_classes=100), timm.create_model(name, num_classes=10)
    classifier = fresh.pretrained_cfg["classifier"]
    before = fresh.get_classifier().weight.clone()
    notes = load_weights(fresh, saved(trained.state_dict(), tmp_path / "weights.safetensors"))
    assert notes == [
        f"weights.safetensors has 100 classes, the network 10: its classifier '{classifier}' starts from fresh weights."
    ]
    assert torch.equal(fresh.get_classifier().weight, before)
    first_conv = fresh.pretrained_cfg["first_conv"]
    assert torch.equal(fresh.get_submodule(first_conv).weight, trained.get_submodule(first_conv).weight)


def test_two_classifiers_are_both_left_fresh(tmp_path: Path) -> None:
    name = "deit_tiny_distilled_patch16_224"
    trained = timm.create_model(name, num_classes=5, depth=1)
    fresh = timm.create_model(name, num_classes=3, depth=1)
    notes = load_weights(fresh, saved(trained.state_dict(), tmp_path / "weights.safetensors"))
    assert [note.split("'")[1] for note in notes] == ["head", "head_dist"]


def test_files_without_batch_counters_are_loaded(tmp_path: Path) -> None:
    trained, fresh = tiny(), tiny()
    state = {key: v for key, v in trained.state_dict().items() if "num_batches_tracked" not in key}
    assert load_weights(fresh, saved(state, tmp_path / "weights.safetensors")) == []
    assert same(trained, fresh)


def refusal(model: nn.Module, path: Path) -> str:
    """The one line that a file is refused with; the model must be as it was."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(BackboneError) as raised:
        load_weights(model, path)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert "\n" not in str(raised.value)
    return str(raised.value)


def without(state: dict[str, Tensor], *keys: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key not in keys}


def test_missing_and_unexpected_keys_are_named(tmp_path: Path) -> None:
    state = without(tiny().state_dict(), "layer2.0.conv1.weight") | {"extra.weight": torch.zeros(1)}
    message = refusal(tiny(), saved(state, tmp_path / "weights.safetensors"))
    assert "1 missing (layer2.0.conv1.weight); 1 unexpected (extra.weight)" in message


def test_a_missing_classifier_is_not_forgiven(tmp_path: Path) -> None:
    state = without(tiny().state_dict(), "linear.weight", "linear.bias")
    message = refusal(tiny(), saved(state, tmp_path / "weights.safetensors"))
    assert "2 missing (linear.weight, linear.bias)" in message


def test_many_keys_are_counted_and_the_first_named(tmp_path: Path) -> None:
    message = refusal(tiny(), saved(tiny(blocks=2).state_dict(), tmp_path / "weights.safetensors"))
    assert "unexpected (layer1.1." in message and ", ...)" in message


def test_another_number_of_input_channels_is_refused(tmp_path: Path) -> None:
    message = refusal(tiny(in_chans=1), saved(tiny().state_dict(), tmp_path / "weights.safetensors"))
    assert "1 of another shape (conv1.weight (4, 3, 3, 3) instead of (4, 1, 3, 3))" in message


def test_another_width_is_refused_classifier_and_all(tmp_path: Path) -> None:
    wide = timm.create_model("cifar_resnet8", num_classes=100)
    message = refusal(tiny(), saved(wide.state_dict(), tmp_path / "weights.safetensors"))
    assert "of another shape (conv1.weight (16, 3, 3, 3) instead of (4, 3, 3, 3)" in message


class RunsCode:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (pytest.fail, ("the pickle was run",))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_is_refused_unrun_with_the_way_out(write: Any, tmp_path: Path) -> None:
    write({"state_dict": {}, "hook": RunsCode()}, tmp_path / "weights.pt")
    assert "Convert it to safetensors" in refusal(tiny(), tmp_path / "weights.pt")


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    assert "Convert it to safetensors" in refusal(tiny(), saved(tiny(), tmp_path / "weights.pt"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert f"no weights at {tmp_path / 'weights.pt'}" in refusal(tiny(), tmp_path / "weights.pt")


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
@pytest.mark.parametrize("size", [0, 5, 1000])
def test_a_truncated_file_is_refused(name: str, size: int, tmp_path: Path) -> None:
    path = saved(tiny().state_dict(), tmp_path / name)
    path.write_bytes(path.read_bytes()[:size])
    message = refusal(tiny(), path)
    assert name in message and ("truncated" in message or "damaged" in message)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([torch.zeros(1)], "holds list, not a state dict"),
        (torch.zeros(1), "holds Tensor, not a state dict"),
        ({}, "not a state dict"),
        ({"epoch": 3, "conv1.weight": torch.zeros(1)}, "no tensors (epoch)"),
    ],
)
def test_content_that_is_no_state_dict_is_named(content: Any, said: str, tmp_path: Path) -> None:
    assert said in refusal(tiny(), saved(content, tmp_path / "weights.pt"))

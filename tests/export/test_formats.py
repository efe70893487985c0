"""Every format is written and compared with the network, or does not appear."""

import gc
import json
import linecache
import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers import Conv2dSame, StdConv2d
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from lwdc.architecture import Architecture
from lwdc.backbones import Backbone
from lwdc.candidates import DoesNotFit, build, candidate_names
from lwdc.errors import ExportError, WriteError
from lwdc.export import FORMATS, export_all, formats, load
from lwdc.records import ExportRecord
from lwdc.selection import selection_ops
from lwdc.sites import find_sites
from lwdc.surgery import discretise, rebuild, wrap

FullDisk = Callable[[int], AbstractContextManager[None]]

# One line for each operator of the registry.
CANDIDATES: dict[str, dict[str, Any]] = {
    "avg_pool": {},
    "dilated": {"size": 3, "dilation": 2},
    "epitome": {"ratio": 4},
    "factorised": {},
    "ghost": {},
    "grouped": {"groups": 4},
    "kernel": {"size": 5},
    "low_rank": {"ratio": 0.5},
    "max_pool": {"size": 3},
    "original": {},
    "partial": {},
    "pointwise": {},
    "separable": {},
    "separable_norm": {"repeats": 2},
    "shift": {},
    "shuffled": {"groups": 4},
    "skip": {},
    "squeezed": {"ratio": 0.5},
    "sum": {"of": [{"op": "grouped", "groups": 4}, {"op": "skip"}, {"op": "low_rank", "ratio": 0.5}]},
    "tucker": {"ratio": 0.5},
    "wsnet": {"ratio": 2},
    "zero": {},
}

PLANES_ONLY = {"factorised"}
FITTING_WITHOUT_TAPS = {"epitome", "grouped", "low_rank", "original", "skip", "sum", "zero"}

Kinds = dict[str, Callable[[], nn.Module]]

PADDED_AT_RUN_TIME: Kinds = {
    "same": lambda: Conv2dSame(8, 8, 3, stride=2),  # pads 0 before and 1 behind where the size is even
}
LINES: Kinds = {
    "even": lambda: nn.Conv1d(8, 8, 4, stride=2, padding=1, padding_mode="circular"),
    "pool": lambda: nn.AvgPool1d(3, 2, 1),
}
WITHOUT_TAPS: Kinds = {"linear": lambda: nn.Linear(20, 20)}
PLANES: Kinds = {
    "plain": lambda: nn.Conv2d(8, 8, 3, padding=1),
    "strided": lambda: nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False),
    "even": lambda: nn.Conv2d(8, 8, 4, stride=2, padding=1),
    "reflect": lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
    "flat": lambda: nn.Conv2d(8, 8, (1, 5), padding=(0, 2)),
    "unpadded": lambda: nn.Conv2d(8, 8, 3, dilation=2),
    "depthwise": lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8),
    "standardised": lambda: StdConv2d(8, 8, 3, padding=1),
    "pool": lambda: nn.MaxPool2d(3, 2, 1),
}


class SideBySide(nn.Module):
    """Convolutions that read the same image; the logits show both ends and the mean of each map."""

    def __init__(self, convolutions: dict[str, nn.Module]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleDict(convolutions)

    def forward(self, x: Tensor) -> Tensor:
        maps: dict[int, list[Tensor]] = {}  # of one size: what is done to them at once need not be translated for each
        for conv in self.convolutions.values():
            y = conv(x).flatten(2)
            maps.setdefault(y.shape[-1], []).append(y)
        joined = [torch.cat(alike, 1) for alike in maps.values()]
        return torch.cat([y[..., [0, -1]].flatten(1) + y.mean(2).repeat(1, 2) for y in joined], 1)


def every_operator(kinds: Kinds, size: tuple[int, ...]) -> tuple[SideBySide, Architecture]:
    """A network with each operator at each kind of site where it fits."""
    convolutions = {f"{kind}_{op}": make() for kind, make in kinds.items() for op in CANDIDATES}
    choices = {}
    for site in find_sites(SideBySide(convolutions), size).sites:
        name = next(op for op in sorted(CANDIDATES, key=len, reverse=True) if site.name.endswith(f"_{op}"))
        candidate = {"op": name, **CANDIDATES[name]}
        try:
            build(candidate, site)
        except DoesNotFit:
            continue
        choices[site.name] = candidate
    fitting = {name: conv for name, conv in convolutions.items() if f"convolutions.{name}" in choices}
    return SideBySide(fitting), Architecture(choices)


@pytest.mark.parametrize(
    ("kinds", "size"),
    [
        pytest.param(PADDED_AT_RUN_TIME, (8, 12, 11), id="padded", marks=pytest.mark.long),
        pytest.param({"even": LINES["even"]}, (8, 20), id="1-D"),
        pytest.param(LINES, (8, 20), id="1-D-pools", marks=pytest.mark.long),
        pytest.param(WITHOUT_TAPS, (8, 20), id="linear"),
        *(
            pytest.param({kind: PLANES[kind] for kind in some}, (8, 12, 11), id="-".join(some), marks=pytest.mark.long)
            for some in (list(PLANES)[first : first + 3] for first in range(0, len(PLANES), 3))
        ),
    ],
)
def test_every_operator_computes_the_same_in_every_format(tmp_path: Path, kinds: Kinds, size: tuple[int, ...]) -> None:
    model, architecture = every_operator(kinds, size)
    used = {candidate["op"] for candidate in architecture.choices.values()}
    fitting = set(candidate_names()) - (PLANES_ONLY if len(size) == 2 else set())
    fitting = FITTING_WITHOUT_TAPS if kinds is WITHOUT_TAPS else fitting
    assert used == fitting, "give a new operator a line in CANDIDATES"
    network = rebuild(model, architecture, size)
    records = export_all(tmp_path, network, architecture, input_size=size, model=model)
    assert [record.format for record in records] == list(FORMATS)
    assert max(record.max_difference / record.tolerance for record in records) < 0.1  # 1e-5 of the largest output


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("test_resnet", 32),
        ("test_vit", 160),
        pytest.param("test_nfnet", 32, marks=pytest.mark.long),  # standardises weights
        pytest.param("resnet18", 64, marks=pytest.mark.long),
        pytest.param("cifar_resnet20", 32, marks=pytest.mark.long),
        pytest.param("efficientnet_b0", 64, marks=pytest.mark.long),
        pytest.param("tf_efficientnet_b0", 64, marks=pytest.mark.long),  # pads as TensorFlow does
        pytest.param("convnext_atto", 64, marks=pytest.mark.long),
        pytest.param("test_efficientnet", 64, marks=pytest.mark.long),
        pytest.param("test_mambaout", 64, marks=pytest.mark.long),
        pytest.param("swin_tiny_patch4_window7_224", 224, marks=pytest.mark.long),
    ],
)
def test_compressed_timm_networks_pass(tmp_path: Path, settle: Any, name: str, size: int) -> None:
    backbone = Backbone(name, num_classes=10, in_chans=3)
    supernet = wrap(backbone.create(), input_size=(3, size, size))
    ops = selection_ops(supernet)
    architecture = Architecture({site: random.choice(op.candidates) for site, op in ops.items()})
    network, _ = discretise(supernet, architecture)
    settle(network, (3, size, size))
    records = export_all(tmp_path, network, architecture, backbone=backbone, input_size=(3, size, size))
    assert records[0].max_difference == 0
    assert all(record.max_difference <= record.tolerance and record.top1_agrees for record in records)


def test_records_name_files_and_sizes(exported: tuple[Path, tuple[ExportRecord, ...]]) -> None:
    folder, records = exported
    assert [record.file for record in records] == ["model.safetensors", "model.pt2", "model.onnx"]
    assert all((folder / record.file).stat().st_size == record.bytes for record in records)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["model.json", "model.safetensors", "model.pt2", "model.onnx"]
    )


def test_the_package_in_the_folder_is_whole(compressed: Any, exported: tuple[Path, tuple[ExportRecord, ...]]) -> None:
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(load(exported[0])(images), compressed.network(images))


def test_a_network_in_training_and_half_precision_is_exported_in_float32_and_left_alone(
    compressed: Any, tmp_path: Path
) -> None:
    network = rebuild(compressed.backbone.create(), compressed.architecture, (1, 8, 8)).bfloat16()
    export_all(tmp_path, network, compressed.architecture, formats=["safetensors"], **compressed.facts)
    assert network.training and network.linear.weight.dtype == torch.bfloat16
    assert load(tmp_path).linear.weight.dtype == torch.float32
    assert torch.equal(load(tmp_path).linear.weight, network.linear.weight.float())


def test_the_order_of_formats_does_not_matter(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3))
    arguments: dict[str, Any] = {"input_size": (1, 8, 8), "model": network}
    first, second = (
        export_all(tmp_path, network, Architecture({}), formats=order, **arguments)
        for order in (list(FORMATS), list(FORMATS)[::-1])
    )
    assert first == second[::-1]


def test_only_the_formats_asked_for_are_written(compressed: Any, tmp_path: Path) -> None:
    assert export_all(tmp_path, compressed.network, compressed.architecture, formats=[], **compressed.facts) == ()
    export_all(tmp_path, compressed.network, compressed.architecture, formats=["torch_export"], **compressed.facts)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]


def test_an_unknown_format_suggests_the_nearest_before_any_work(compressed: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="unknown export format 'onx'"):
        export_all(tmp_path / "run", compressed.network, compressed.architecture, formats=["safetensors", "onx"])
    assert not list(tmp_path.iterdir())


def test_a_network_that_timm_does_not_know_must_be_given(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten())
    with pytest.raises(ExportError, match=r"give it, with any weights, as model=\.\.\."):
        export_all(tmp_path, network, Architecture({}), input_size=(1, 8, 8))


def test_a_supernet_is_not_exported(tmp_path: Path) -> None:
    supernet = wrap(Backbone("cifar_resnet8", 10, 1).create(), input_size=(1, 8, 8))
    with pytest.raises(ExportError, match=r"lwdc\.discretise"):
        export_all(tmp_path, supernet, Architecture({}), formats=["onnx"], input_size=(1, 8, 8))


@pytest.mark.parametrize("name", ["safetensors", "torch_export"])
def test_a_file_that_differs_does_not_appear_and_the_one_before_stays(
    compressed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def off(folder: Path, job: Any) -> Any:
        files, run = FORMATS[name](folder, job)
        return files, lambda images: run(images) + 1

    arguments = (compressed.network, compressed.architecture)
    records = export_all(tmp_path, *arguments, formats=[name], **compressed.facts)
    before = (tmp_path / records[0].file).stat().st_ino
    monkeypatch.setattr(formats, "FORMATS", {**FORMATS, name: off})
    with pytest.raises(ExportError, match=rf"{records[0].file} does not compute what the network does: .* 1"):
        export_all(tmp_path, *arguments, formats=[name], **compressed.facts)
    assert (tmp_path / records[0].file).stat().st_ino == before
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_one_clear_line(compressed: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match=r"file cannot be written .*choose a folder"):
        export_all(tmp_path / "file", compressed.network, compressed.architecture, **compressed.facts)


@pytest.mark.parametrize("name", FORMATS)
def test_a_full_disk_is_one_clear_line_and_the_old_files_stay(
    exported: tuple[Path, tuple[ExportRecord, ...]], compressed: Any, full_disk: FullDisk, name: str
) -> None:
    """PyTorch would end the process where its files meet a full disk, so it writes to memory."""
    folder, _ = exported
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with full_disk(2000), pytest.raises(WriteError, match=r"model\.\w+ cannot be written .*make room on its disk"):
        export_all(folder, compressed.network, compressed.architecture, formats=[name], **compressed.facts)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_weights_that_are_not_finite_fail(compressed: Any, tmp_path: Path) -> None:
    network = rebuild(compressed.backbone.create(), compressed.architecture, (1, 8, 8))
    network.linear.bias.data[3] = float("nan")
    with pytest.raises(ExportError, match="the network returns values that are not finite"):
        export_all(tmp_path, network, compressed.architecture, formats=["safetensors"], **compressed.facts)
    assert not list(tmp_path.iterdir())


def test_no_trace_stays_in_memory_and_no_source_of_its_graphs(tmp_path: Path) -> None:
    """They would grow with every export, without bound."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3))

    def held() -> tuple[int, int]:
        export_all(tmp_path, network, Architecture({}), formats=["onnx"], input_size=(1, 8, 8))
        gc.collect()
        return sum(type(thing) is ShapeEnv for thing in gc.get_objects()), len(linecache.cache)

    held()  # what is imported at the first one stays
    before = held()
    assert held() == before


def test_records_are_json_ready(exported: tuple[Path, tuple[ExportRecord, ...]]) -> None:
    assert json.loads(json.dumps([vars(record) for record in exported[1]]))[0]["top1_agrees"] is True

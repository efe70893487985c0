"""Measures: counts, bytes and times of a network and of its sites."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from safetensors.torch import save as to_bytes
from torch import nn

from lwdc.architecture import Architecture
from lwdc.errors import WriteError
from lwdc.export import onnx, to_onnx
from lwdc.pipeline import measures
from lwdc.pipeline.measures import environment, measure_both, measure_networks, measure_sites
from lwdc.records import latencies
from lwdc.space import SearchSpace, make_plan
from lwdc.surgery import rebuild


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
    )


def test_a_network_is_counted_and_timed_at_every_batch_size() -> None:
    model = network()
    (measured,) = measure_networks([model], (3, 6, 6), [1, 5])
    assert measured.macs == 36 * (3 * 4 + 4 * 4 + 4 * 4) * 9
    assert measured.params == (3 * 4 + 4 * 4 + 4 * 4) * 9 + 8
    assert list(measured.latency_ms) == ["1", "5"] and min(measured.latency_ms.values()) > 0
    assert measured.bytes == len(to_bytes(model.state_dict()))


class Takes(nn.Module):
    """Writes its name down whenever it runs, and takes so many milliseconds."""

    def __init__(self, name: str, milliseconds: float, said: list[str]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.name, self.milliseconds, self.said = name, milliseconds, said

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.said.append(self.name)
        assert x.dtype == torch.float64
        time.sleep(self.milliseconds / 1000)
        return x


def test_networks_are_timed_in_turns() -> None:
    said: list[str] = []
    slow, slower = measure_networks([Takes("a", 10, said), Takes("b", 30, said)], (3, 2, 2), [1])
    assert slow.latency_ms["1"] >= 10 and slower.latency_ms["1"] >= 30
    assert said[-6:] == ["a", "b"] * 3


def test_a_layer_held_twice_is_stored_once() -> None:
    model = network()
    (once,) = measure_networks([model], (3, 6, 6), [])
    twice = nn.Sequential(model, nn.Identity())
    twice.again = model[1]
    twice.forward = lambda x: model(x)
    (both,) = measure_networks([twice], (3, 6, 6), [])
    assert once.bytes <= both.bytes < once.bytes + 4 * 4 * 9 * 4


def test_both_networks_are_timed_in_onnx_runtime_where_there_is_a_file(tmp_path: Path) -> None:
    model = nn.Sequential(network(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    smaller = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).train()
    to_onnx(smaller, tmp_path / "model.onnx", (3, 6, 6))
    before, after, warning = measure_both(model, smaller, tmp_path / "model.onnx", (3, 6, 6), [2, 1])
    assert warning is None and smaller.training and [*tmp_path.iterdir()] == [tmp_path / "model.onnx"]
    for measured in (before, after):
        assert measured.onnx_ms is not None and list(measured.onnx_ms) == ["2", "1"]
        assert min(measured.onnx_ms.values()) > 0
    assert [name for name, _, _ in latencies(before, after)] == [
        "batch 1", "batch 2", "batch 1, ONNX Runtime", "batch 2, ONNX Runtime",
    ]  # fmt: skip
    for file, batches in ((None, [1]), (tmp_path / "model.onnx", [])):
        before, after, warning = measure_both(model, smaller, file, (3, 6, 6), batches)
        assert before.onnx_ms is None and after.onnx_ms is None and warning is None


class Looks(nn.Module):
    """Cannot be traced: what it computes hangs on values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


@pytest.fixture
def exported(tmp_path: Path) -> tuple[nn.Module, Path]:
    smaller = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    to_onnx(smaller, tmp_path / "model.onnx", (3, 6, 6))
    return smaller, tmp_path / "model.onnx"


def test_where_the_baseline_cannot_be_had_in_onnx_runtime_nothing_is_timed_there(
    exported: tuple[nn.Module, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller, file = exported

    def warning_for(model: nn.Module) -> str:
        before, after, warning = measure_both(model, smaller, file, (3, 6, 6), [1])
        assert before.onnx_ms is None and after.onnx_ms is None and before.latency_ms["1"] > 0
        assert [*file.parent.iterdir()] == [file]
        assert warning is not None and warning.startswith("nothing was timed in ONNX Runtime, for which the baseline")
        return warning

    assert "torch.export cannot trace this Looks" in warning_for(Looks()) and "Leave" not in warning_for(Looks())
    monkeypatch.setattr(onnx, "MOST_BYTES", 100)
    assert warning_for(network()).endswith("the weights take 1616 bytes, an ONNX file holds 100")
    monkeypatch.undo()

    def run(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
        def fails(x: torch.Tensor) -> torch.Tensor:
            raise MemoryError(f"{len(x)} are too many")

        return fails

    monkeypatch.setattr(measures, "run_onnx", run)
    assert warning_for(network()).endswith("1 are too many")


def test_a_full_disk_ends_the_measuring_too(
    exported: tuple[nn.Module, Path], full_disk: Callable[[int], contextlib.AbstractContextManager[None]]
) -> None:
    smaller, file = exported
    with full_disk(100), pytest.raises(WriteError, match=r"model\.onnx"):
        measure_both(network(), smaller, file, (3, 6, 6), [1])
    assert [*file.parent.iterdir()] == [file]


def test_sites_are_compared_with_what_stood_there() -> None:
    model = network()
    plan = make_plan(
        model, SearchSpace([{"op": "original"}, {"op": "grouped", "groups": 4}, {"op": "skip"}]), (3, 6, 6)
    )
    architecture = Architecture({"1": {"op": "original"}, "2": {"op": "skip"}})
    smaller = rebuild(model, architecture, (3, 6, 6))
    kept, skipped = measure_sites(
        plan, model, smaller, architecture, {"1": 0.9, "2": 0.6}, {"1": {}, "2": {"skip": 0.5}}
    )
    assert (kept.operator, kept.probability, kept.macs_before, kept.macs_after) == ("original", 0.9, 5184, 5184)
    assert kept.ms_after == kept.ms_before and kept.params_after == 4 * 4 * 9 + 4
    assert (skipped.operator, skipped.macs_after, skipped.params_before, skipped.params_after) == ("skip", 0, 144, 0)
    assert skipped.ms_after is not None and skipped.ms_after > 0
    assert (kept.inheritance_error, skipped.inheritance_error) == (None, 0.5)


def test_the_environment_names_versions_and_hardware() -> None:
    found = environment(torch.device("cpu"))
    assert found["torch"] == torch.__version__ and found["threads"] == torch.get_num_threads()
    assert found["device"] == found["cpu"] and found["device"] and found["cores"] and found["python"].count(".") == 2


def test_bytes_are_those_of_the_file() -> None:
    model = network()
    assert set(load(to_bytes(model.state_dict()))) == set(model.state_dict())

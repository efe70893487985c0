"""Whole runs in channels_last, with branches computed again, and compiled."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import lwdc
from lwdc.errors import SpaceError, TrainingError
from lwdc.pipeline import Compute, Settings, compress
from lwdc.pipeline.prepare import prepare, prepare_training
from lwdc.space import SearchSpace
from lwdc.training import CAN_COMPILE

BRANCHING = SearchSpace([{"op": "original"}, {"op": "grouped", "groups": 4}, {"op": "separable_norm"}])


def test_a_run_in_channels_last_with_branches_computed_again_leaves_an_ordinary_package(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    compute = Compute("cpu", channels_last=True, checkpointing=True)
    given = settings(compute=compute, space=BRANCHING, formats=("safetensors",))
    result = compress(given, tmp_path / "run", {})
    assert result is not None and result.exports[0].max_difference == 0
    network = lwdc.load(tmp_path / "run")
    assert all(value.is_contiguous() for value in network.state_dict().values())


@pytest.mark.long
@pytest.mark.skipif(not CAN_COMPILE, reason="this PyTorch does not compile every network for itself")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_compiled_run_is_bitwise_the_run(settings: Callable[..., Settings], tmp_path: Path) -> None:
    """Baseline, search and fine-tuning, by the compiler's front end alone, which changes no arithmetic."""
    results = []
    for name, compute in (("plain", Compute("cpu")), ("compiled", Compute("cpu", compile="eager"))):
        given = settings(compute=compute, space=BRANCHING, formats=("safetensors",))
        results.append(compress(given, tmp_path / name, {}))
        torch._dynamo.reset()
    plain, compiled = results
    assert plain is not None and compiled is not None
    assert (plain.valid, plain.test) == (compiled.valid, compiled.test)
    files = [
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "compiled")
    ]  # the names in it, too
    assert files[0] == files[1]


def test_checkpointing_without_branches_is_refused(settings: Callable[..., Settings]) -> None:
    space = SearchSpace([{"op": "original"}, {"op": "grouped", "groups": 4}])
    given = settings(compute=Compute("cpu", checkpointing=True), space=space)
    with pytest.raises(SpaceError, match="in this space all operators are mixed as kernels: leave it out"):
        prepare(given)


def test_channels_last_is_refused_for_sound(settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings(compute=Compute("cpu", channels_last=True))
    monkeypatch.setattr(type(given.data), "input_size", (1, 64), raising=False)
    with pytest.raises(TrainingError, match=r"channels_last is a layout of images .* \(1, 64\): leave it out"):
        prepare_training(given)

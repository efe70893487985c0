"""Checkpoints: read back whole, refused when damaged or foreign, and never executed."""

import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lwdc.errors import CheckpointError, WriteError
from lwdc.training import load_checkpoint, save_checkpoint

FullDisk = Callable[[int], AbstractContextManager[None]]
STATE: dict[str, Any] = {
    "weights": {"a": torch.arange(6.0)},
    "step": 3,
    "done": {"baseline": {"valid": 0.5}},
    "fit": None,
}


class Ball:
    """Would make a file when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, STATE)
    return path


def test_a_checkpoint_holds_what_was_saved(saved: Path) -> None:
    state = load_checkpoint(saved)
    assert torch.equal(state["weights"]["a"], STATE["weights"]["a"])
    assert {key: state[key] for key in ("step", "done", "fit")} == {"step": 3, "done": STATE["done"], "fit": None}


def test_a_failed_save_leaves_the_last_checkpoint(saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(Exception, match=r"pickle|local object"):
        save_checkpoint(saved, {"unsaveable": lambda: None})
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("size", [0, 100, 1000])
def test_a_full_disk_leaves_the_last_checkpoint(saved: Path, full_disk: FullDisk, size: int) -> None:
    before = saved.read_bytes()
    with full_disk(size), pytest.raises(WriteError, match=r"checkpoint\.pt cannot be written .*make room on its disk"):
        save_checkpoint(saved, {**STATE, "weights": {"a": torch.zeros(1000)}})
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["checkpoint.pt"]


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint at .*nowhere\.pt; nothing can be resumed"):
        load_checkpoint(tmp_path / "nowhere.pt")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_truncated_checkpoint_is_refused(saved: Path, data: st.DataObject) -> None:
    whole = saved.read_bytes()
    part = saved.with_name("part.pt")
    part.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(CheckpointError, match=r"part\.pt is .* lwdc"):
        load_checkpoint(part)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.binary(max_size=200))
def test_garbage_is_refused(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "garbage.pt"
    path.write_bytes(garbage)
    with pytest.raises(CheckpointError, match=r"garbage\.pt is "):
        load_checkpoint(path)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_a_damaged_byte_is_noticed_or_does_no_harm(saved: Path, place: int, flip: int) -> None:
    whole = bytearray(saved.read_bytes())
    whole[place % len(whole)] ^= flip
    damaged = saved.with_name("damaged.pt")
    damaged.write_bytes(whole)
    try:
        state = load_checkpoint(damaged)
    except CheckpointError as error:
        assert "damaged.pt" in str(error)
    else:  # the byte fills a gap, or belongs to the archive's own bookkeeping
        assert torch.equal(state.pop("weights")["a"], STATE["weights"]["a"])
        assert state == {"format": "lwdc-checkpoint-1", "step": 3, "done": STATE["done"], "fit": None}


def test_a_damaged_weight_is_noticed(saved: Path) -> None:
    whole = saved.read_bytes()
    weights = STATE["weights"]["a"].numpy().tobytes()
    assert weights in whole
    saved.write_bytes(whole.replace(weights, weights[:-1] + b"\x00"))
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is damaged .* \(wrong checksum of .*data/0"):
        load_checkpoint(saved)


@pytest.mark.parametrize("foreign", [{"model": {}}, [1, 2], torch.zeros(3), {"format": "lwdc-checkpoint-99"}])
def test_a_foreign_file_is_refused(tmp_path: Path, foreign: Any) -> None:
    path = tmp_path / "foreign.pt"
    torch.save(foreign, path)
    with pytest.raises(CheckpointError, match=r"foreign\.pt is no checkpoint of this version of lwdc"):
        load_checkpoint(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path, legacy: bool) -> None:
    path, target = tmp_path / "trap.pt", tmp_path / "sprung"
    if legacy:
        path.write_bytes(pickle.dumps({"format": "lwdc-checkpoint-1", "trap": Ball(target)}, protocol=2))
    else:
        torch.save({"format": "lwdc-checkpoint-1", "trap": Ball(target)}, path)
    with pytest.raises(CheckpointError, match=r"trap\.pt is damaged or no checkpoint of lwdc"):
        load_checkpoint(path)
    assert not target.exists()

"""The whole line on two ranks: one folder, the same kinds of files, told once; and what stops it."""

import dataclasses
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lwdc.errors import LwdcError
from lwdc.pipeline import Compute, Settings, compress
from lwdc.pipeline.ranks import Ranks
from lwdc.records import EpochRecord, Note, Record, Result
from lwdc.tracking import parse_record, read_records
from lwdc.training import Fit, load_checkpoint

InRanks = Callable[..., list[Any]]
MakeSettings = Callable[..., Settings]

TWO = Compute("cpu", devices=2, strategy="ddp", timeout_s=20)
CONFIG = {"seed": 0}


class Told:
    """A sink that counts."""

    def __init__(self) -> None:
        self.count = 0

    def write(self, record: Record) -> None:
        self.count += 1

    def close(self) -> None:
        return


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def records(folder: Path) -> list[Record]:
    return [parse_record(line) for line in read_records(folder / "records.jsonl")]


@pytest.fixture(scope="module")
def together(
    settings: MakeSettings, in_ranks: InRanks, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[tuple[Result, int]]]:
    """The run of ``finished`` on two ranks: its folder, and what each rank got and told its sink."""
    folder = tmp_path_factory.mktemp("together") / "run"
    recipe = dataclasses.replace(settings().search, epochs=2)
    given = settings(search=recipe, formats=("safetensors", "torch_export", "onnx"), compute=TWO)

    def work(rank: int) -> tuple[Result, int]:
        sink = Told()
        result = compress(given, folder if rank == 0 else Path("nowhere"), CONFIG, [sink])
        assert result is not None
        return result, sink.count

    return folder, in_ranks(2, work, timeout=200)


def test_a_run_on_two_ranks_leaves_what_one_on_one_rank_leaves(
    together: tuple[Path, Any], finished: tuple[Path, Settings, Result]
) -> None:
    folder, _ = together
    assert files(folder) == files(finished[0])
    assert not Path("nowhere").exists()
    ours, theirs = records(folder), records(finished[0])
    assert [type(r) for r in ours if not isinstance(r, Note)] == [type(r) for r in theirs if not isinstance(r, Note)]
    steps = [[(r.phase, r.epoch, r.step) for r in told if isinstance(r, EpochRecord)] for told in (ours, theirs)]
    assert steps[0] == steps[1]


def test_every_rank_gets_the_result_and_the_first_one_tells_of_it(together: tuple[Path, Any]) -> None:
    folder, ((result, told), (other, silent)) = together
    assert result == other
    assert result.folder == str(folder)
    assert told == len(records(folder)) and silent == 0


def test_a_finished_run_is_shown_and_a_taken_folder_refused_on_every_rank(
    together: tuple[Path, Any], settings: MakeSettings, in_ranks: InRanks
) -> None:
    folder, ((result, _), _) = together
    given = settings(search=dataclasses.replace(settings().search, epochs=2), compute=TWO, formats=())
    shown = in_ranks(2, lambda rank: compress(given, folder, CONFIG, resume=True))
    assert [found.costs for found in shown] == [result.costs] * 2
    refused = in_ranks(2, lambda rank: compress(given, folder, CONFIG), failing=True)
    assert refused[0].startswith(f"CheckpointError: {folder} holds a run already")
    assert refused[1].startswith(f"Elsewhere: {folder} holds a run already")


def test_a_signal_to_one_rank_stops_all_after_the_same_step_and_one_rank_goes_on(
    settings: MakeSettings, in_ranks: InRanks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Fit._step

    def signalled(fit: Fit, *batch: Any) -> float | None:
        if fit.fabric.global_rank == 1 and fit.phase == "search" and fit.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(fit, *batch)

    folder = tmp_path / "run"
    monkeypatch.setattr(Fit, "_step", signalled)
    stopped = in_ranks(2, lambda rank: compress(settings(compute=TWO), folder, CONFIG), failing=True)
    assert all(told.startswith("Interrupted: stopped in search after step 2 of 3; everything") for told in stopped)
    result = compress(settings(), folder, CONFIG, resume=True)
    assert result is not None
    going_on = [r.text for r in records(folder) if isinstance(r, Note) and "going on" in r.text]
    assert going_on == ["search: going on at step 2 of 3"]


@pytest.mark.parametrize("lost", [1, 0])
def test_a_lost_rank_stops_the_other_within_a_minute_and_the_run_goes_on(
    lost: int, settings: MakeSettings, in_ranks: InRanks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL in the second epoch of the search: the checkpoint is that of the first."""
    step = Fit._step

    def killed(fit: Fit, *batch: Any) -> float | None:
        if fit.fabric.global_rank == lost and fit.phase == "search" and fit.step == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(fit, *batch)

    folder = tmp_path / "run"
    given = settings(search=dataclasses.replace(settings().search, epochs=2), compute=TWO)
    with monkeypatch.context() as patch:
        patch.setattr(Fit, "_step", killed)
        clock = time.monotonic()
        answers = in_ranks(2, lambda rank: compress(given, folder, CONFIG), failing=True)
    assert time.monotonic() - clock < 60
    assert answers[lost] is None
    assert answers[1 - lost].startswith("TrainingError: another process of this run is lost")
    assert f"The last good checkpoint, after step 3, is in {folder}." in answers[1 - lost]
    fit = load_checkpoint(folder / "checkpoint.pt")["fit"]
    assert (fit["state"]["phase"], fit["state"]["step"]) == ("search", 3)
    on_two = in_ranks(2, lambda rank: compress(given, folder, CONFIG, resume=True))
    assert on_two[0] == on_two[1] is not None


def test_a_rank_that_hangs_counts_as_lost_after_the_time_that_was_set(
    settings: MakeSettings, in_ranks: InRanks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Fit._step

    def stuck(fit: Fit, *batch: Any) -> float | None:
        if fit.fabric.global_rank == 1 and fit.phase == "baseline" and fit.step == 1:
            _wait_for(tmp_path / "noticed")
        return step(fit, *batch)

    def work(rank: int) -> None:
        try:
            compress(given, tmp_path / "run", CONFIG)
        finally:
            (tmp_path / "noticed").touch()

    monkeypatch.setattr(Fit, "_step", stuck)
    given = settings(compute=dataclasses.replace(TWO, timeout_s=3))
    answers = in_ranks(2, work, failing=True)
    assert answers[0].startswith("TrainingError: another process of this run is lost, or has not answered for 3 s")


def _wait_for(file: Path) -> None:
    deadline = time.monotonic() + 60
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def test_an_error_of_the_first_rank_alone_is_raised_on_all(in_ranks: InRanks) -> None:
    def work(rank: int) -> int:
        ranks = Ranks(TWO)
        assert ranks.from_first(lambda: rank) == 0
        assert ranks.most(rank, 1 - rank) == [1, 1]

        def fail() -> None:
            raise LwdcError("no room left")

        ranks.from_first(fail)
        return rank

    first, second = in_ranks(2, work, failing=True)
    assert first.startswith("LwdcError: no room left") and second.startswith("Elsewhere: no room left")


def test_what_one_rank_does_alone_is_on_one_device(in_ranks: InRanks) -> None:
    def work(rank: int) -> tuple[int, int]:
        alone = Ranks(TWO).alone()
        return alone.count, alone.fabric.world_size

    assert in_ranks(2, work) == [(1, 1)] * 2


def test_what_all_ranks_have_found_is_known_to_each(in_ranks: InRanks) -> None:
    def work(rank: int) -> list[str]:
        return Ranks(TWO).gather([f"image of {rank}"] * rank)

    assert in_ranks(2, work) == [["image of 1"]] * 2

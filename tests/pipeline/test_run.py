"""A run's folder: refused early, stopped cleanly, and resumed with the same settings only."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lwdc.data import WHOLE, Batch, Digits, Shard
from lwdc.errors import CheckpointError, LwdcError
from lwdc.files import locked
from lwdc.pipeline import Interrupted, Run, Settings, check_folder, compare_configs, compress
from lwdc.records import EpochRecord, Note, Record, Result
from lwdc.tracking import read_records
from lwdc.training import load_checkpoint

MakeSettings = Callable[..., Settings]
CONFIG: dict[str, Any] = {"seed": 0, "train": {"lr": 0.1, "epochs": 3}, "finetune": {"lr": 0.2}, "export": ["onnx"]}


class Ear:
    """A sink that remembers everything, and may act at a step."""

    def __init__(self, act: Callable[[str, int], None] = lambda phase, step: None) -> None:
        self.seen: list[Record] = []
        self.replayed: list[Record] = []
        self.steps: list[tuple[str, int, int]] = []
        self.closed, self.act = 0, act

    def write(self, record: Record) -> None:
        self.seen.append(record)

    def progress(self, phase: str, epoch: int, epochs: int, step: int, steps: int, loss: float | None) -> None:
        self.steps.append((phase, epoch, step))
        self.act(phase, (epoch - 1) * steps + step)

    def replay(self, records: Any) -> None:
        self.replayed += records

    def close(self) -> None:
        self.closed += 1


def test_a_folder_is_one_processs_at_a_time(settings: MakeSettings, tmp_path: Path) -> None:
    with locked(tmp_path / "run" / "checkpoint.pt"), pytest.raises(CheckpointError, match="another process is at work"):
        compress(settings(), tmp_path / "run", {}, until="baseline")
    assert not list(tmp_path.rglob("records.jsonl"))
    compress(settings(), tmp_path / "run", {}, until="baseline")
    compress(settings(), tmp_path / "run", {}, until="baseline", resume=True)  # the end of a run sets it free


def changed(**changes: Any) -> dict[str, Any]:
    return {**CONFIG, **changes}


def test_equal_configurations_agree() -> None:
    compare_configs(CONFIG, json.loads(json.dumps(CONFIG)))


@pytest.mark.parametrize(
    ("given", "difference"),
    [
        (changed(seed=1), "seed: 0 then, 1 now"),
        (changed(train={"lr": 0.5, "epochs": 3}), r"train\.lr: 0\.1 then, 0\.5 now"),
        (changed(train={"lr": 0.1}), r"train\.epochs: 3 then, '\(absent\)' now"),
        (changed(more=1), r"more: '\(absent\)' then, 1 now"),
        (changed(export=["onnx", "x"]), r"export: \['onnx'\] then, \['onnx', 'x'\] now"),
        (changed(seed=2, finetune={}), "finetune: .*; finetune.lr: .*; seed: 0 then, 2 now"),
    ],
)
def test_a_changed_configuration_is_shown(given: dict[str, Any], difference: str) -> None:
    with pytest.raises(CheckpointError, match=f"another configuration: {difference}.* or start a new run"):
        compare_configs(CONFIG, given)


def test_keys_that_do_not_matter_are_not_compared() -> None:
    compare_configs(CONFIG, changed(train={"lr": 9}, export=[]), ignore=["train", "export"])
    with pytest.raises(CheckpointError, match="train"):
        compare_configs(CONFIG, changed(train={"lr": 9}), ignore=["tra", "train.epochs"])


def test_a_run_remembers_its_phases_and_their_figures(tmp_path: Path) -> None:
    with Run(tmp_path / "run", CONFIG) as run:
        run.finish("baseline", valid=0.5)
    with Run(tmp_path / "run", CONFIG, resume=True) as run:
        assert run.done == {"baseline": {"valid": 0.5}}


def test_a_phase_may_change_its_settings_until_it_has_begun(tmp_path: Path) -> None:
    other = changed(finetune={"lr": 0.7})
    with Run(tmp_path, CONFIG) as run:
        run.finish("search")
    with Run(tmp_path, other, resume=True, ignore=["finetune"]) as run:
        run.finish("finetune")
    with pytest.raises(CheckpointError, match=r"finetune\.lr: 0\.7 then, 0\.2 now"):
        Run(tmp_path, CONFIG, resume=True, ignore=["finetune"])


def test_a_run_of_before_networks_could_be_merged_goes_on(tmp_path: Path) -> None:
    silent: dict[str, Any] = {"backbone": {"name": "resnet18"}}  # as those of a backbone of one's own still are
    with Run(tmp_path, silent) as run:
        run.finish("baseline", valid=0.5)
    for now in (silent, {"backbone": {"name": "resnet18", "reparameterise": False}}):
        with Run(tmp_path, now, resume=True) as run:
            assert "baseline" in run.done
    with pytest.raises(CheckpointError, match="reparameterise"):
        Run(tmp_path, {"backbone": {"name": "resnet18", "reparameterise": True}}, resume=True)


def test_records_after_the_checkpoint_are_written_again(tmp_path: Path) -> None:
    with Run(tmp_path, CONFIG) as run:
        run.note("one")
        run.finish("baseline")
        run.note("two, which the checkpoint does not know")
    ear = Ear()
    with Run(tmp_path, CONFIG, [ear], resume=True) as run:
        run.note("three")
    assert [line["text"] for line in read_records(tmp_path / "records.jsonl")] == ["one", "three"]
    assert ear.replayed == [Note("one")]
    assert ear.seen == [Note("three")]
    assert ear.closed == 1


def test_a_folder_that_holds_a_run_is_refused_unless_it_is_resumed(tmp_path: Path) -> None:
    with Run(tmp_path, CONFIG):
        pass
    with pytest.raises(CheckpointError, match=f"{tmp_path} holds a run already. Go on with it by resume={tmp_path}"):
        Run(tmp_path, CONFIG)


@pytest.mark.parametrize("below", ["", "a/b"])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / below
    for refuse in (lambda: check_folder(folder, resume=False), lambda: Run(folder, CONFIG)):
        with pytest.raises(LwdcError, match=r"the output folder .*file.* cannot be written: Not a directory"):
            refuse()


def test_checking_a_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b", resume=False)
    assert list(tmp_path.iterdir()) == []


def test_resuming_where_nothing_is_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        Run(tmp_path / "empty", CONFIG, resume=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_saves_it_and_says_how_to_go_on(
    number: signal.Signals, settings: MakeSettings, tmp_path: Path
) -> None:
    def stop(phase: str, step: int) -> None:
        if (phase, step) == ("search", 2):
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    folder, ear = tmp_path / "run", Ear(stop)
    with pytest.raises(
        Interrupted, match=r"stopped in search after step 2 of 3; everything is saved\. Go on with: resume=.*run"
    ) as stopped:
        compress(settings(), folder, CONFIG, [ear])
    assert stopped.value.signal_number == number
    assert signal.getsignal(number) == before
    assert ear.closed == 1
    assert load_checkpoint(folder / "checkpoint.pt")["fit"]["state"]["step"] == 2

    rest = Ear()
    assert compress(settings(), folder, CONFIG, [rest], resume=True) is not None
    assert rest.steps == [("search", 1, 3), ("finetune", 1, 1), ("finetune", 1, 2), ("finetune", 1, 3)]
    assert Note("search: going on at step 2 of 3") in rest.seen
    assert [r.phase for r in [*ear.seen, *rest.seen] if isinstance(r, EpochRecord)] == [
        "baseline", "search", "finetune"
    ]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_outside_of_training_acts_at_once_and_says_how_to_go_on(
    number: signal.Signals, settings: MakeSettings, tmp_path: Path
) -> None:
    class Killer(Ear):
        def write(self, record: Record) -> None:
            super().write(record)
            if isinstance(record, Result):
                os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match=r"stopped at once; .*Go on with: resume=.*run") as stopped:
        compress(settings(), tmp_path / "run", CONFIG, [Killer()])
    assert stopped.value.signal_number == number
    rest = Ear()
    assert compress(settings(), tmp_path / "run", CONFIG, [rest], resume=True) is not None
    assert rest.steps == []


def test_a_signal_in_validation_saves_what_was_trained_at_once(settings: MakeSettings, tmp_path: Path) -> None:
    """A scheduler grants seconds, and a large validation set takes minutes."""

    class Preempted(Digits):
        def batches(self, split: str, batch_size: int, shard: Shard = WHOLE) -> Iterator[Batch]:
            for batch in super().batches(split, batch_size, shard):
                yield batch
                if split == "valid" and ear.steps and not any(isinstance(r, EpochRecord) for r in ear.seen):
                    os.kill(os.getpid(), signal.SIGTERM)
                    pytest.fail("the signal came too late")

    folder, ear = tmp_path / "run", Ear()
    options = {"crop_padding": 1, "limit_train": 192, "valid": 100}
    with pytest.raises(Interrupted, match=r"stopped in baseline after step 3 of 3; everything is saved\. Go on with"):
        compress(settings(data=Preempted(**options)), folder, CONFIG, [ear], until="baseline")
    rest = Ear()
    compress(settings(), folder, CONFIG, [rest], until="baseline", resume=True)
    assert rest.steps == []
    compress(settings(), tmp_path / "other", CONFIG, until="baseline")
    ours, theirs = (load_file(f / "baseline.safetensors") for f in (folder, tmp_path / "other"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    first, second = (
        [{**r, "seconds": 0} for r in read_records(f / "records.jsonl") if r["record"] == "EpochRecord"]
        for f in (folder, tmp_path / "other")
    )
    assert first == second


def test_a_second_interrupt_acts_at_once_and_says_how_to_go_on(settings: MakeSettings, tmp_path: Path) -> None:
    def twice(phase: str, step: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match=r"stopped at once.*resume="):
        compress(settings(), tmp_path / "run", CONFIG, [Ear(twice)])
    load_checkpoint(tmp_path / "run" / "checkpoint.pt")


def test_steps_between_checkpoints_run_again_and_no_others(settings: MakeSettings, tmp_path: Path) -> None:
    class Died(BaseException):
        pass

    def die(phase: str, step: int) -> None:
        if (phase, step) == ("finetune", 2):
            raise Died

    folder = tmp_path / "run"
    with pytest.raises(Died):
        compress(settings(), folder, CONFIG, [Ear(die)])
    rest = Ear()
    compress(settings(), folder, CONFIG, [rest], resume=True)
    assert rest.steps == [("finetune", 1, 1), ("finetune", 1, 2), ("finetune", 1, 3)]


@pytest.mark.parametrize(("minutes", "saved"), [(0.0, 2), (10.0, None)])
def test_checkpoints_come_as_often_as_asked(
    minutes: float, saved: int | None, settings: MakeSettings, tmp_path: Path
) -> None:
    held: list[int | None] = []

    def look(phase: str, step: int) -> None:
        fit = load_checkpoint(tmp_path / "run" / "checkpoint.pt")["fit"]
        if (phase, step) == ("baseline", 3):
            held.append(fit["state"]["step"] if fit else None)

    compress(settings(checkpoint_minutes=minutes), tmp_path / "run", CONFIG, [Ear(look)], until="baseline")
    assert held == [saved]


def test_outside_of_the_main_thread_signals_are_left_alone(settings: MakeSettings, tmp_path: Path) -> None:
    given = settings()
    thread = threading.Thread(target=compress, args=(given, tmp_path / "run", CONFIG), kwargs={"until": "baseline"})
    thread.start()
    thread.join()
    assert "baseline" in load_checkpoint(tmp_path / "run" / "checkpoint.pt")["done"]

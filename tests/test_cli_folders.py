"""The command line and folders: where it writes, what it leaves alone, and what it never overwrites."""

import csv
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from lwdc import commands
from lwdc.pipeline import Interrupted
from lwdc.training import load_checkpoint

Run = Callable[..., tuple[int, str, str]]  # of the fixture lwdc_in: (*arguments) -> exit code, stdout, stderr

TINY = [
    "backbone=cifar_resnet8",
    "+backbone.options.channels=[4,8,8]",
    "data.limit_train=128",
    "compute=cpu",
    "space.candidates=[{op: original}, {op: grouped, groups: 4}, {op: pointwise}]",
    "train.epochs=1",
    "strategy.epochs=1",
    "strategy.refit_images=0",
    "finetune.epochs=1",
    "export.formats=[]",
    "latency_batches=[]",
]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("setting", ["hydra.run.dir=file", "hydra.run.dir=file/run", "hydra.sweep.dir=file/x"])
def test_a_folder_that_cannot_be_written_is_one_line(lwdc_in: Run, setting: str) -> None:
    Path("file").touch()
    code, out, error = lwdc_in("compress", *(["-m"] if "sweep" in setting else []), *TINY, setting)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert "cannot be written: Not a directory. Choose another one." in error


def test_the_default_folder_is_checked_too(lwdc_in: Run) -> None:
    Path("outputs").touch()
    code, _, error = lwdc_in("train", *TINY)
    assert code == 2
    assert "the output folder outputs cannot be written" in error


def test_without_a_folder_a_run_lies_below_outputs_under_its_command_and_time(lwdc_in: Run) -> None:
    assert lwdc_in("train", *TINY, "train.epochs=0")[0] == 0
    (folder,) = Path("outputs/train").iterdir()
    assert {path.name for path in folder.iterdir()} == {
        ".hydra", "records.jsonl", "checkpoint.pt", ".checkpoint.pt.lock", "baseline.safetensors"
    }  # fmt: skip


def test_refused_commands_leave_a_run_as_it_is_and_it_still_goes_on(lwdc_in: Run) -> None:
    folder = Path("a run=1, of many")
    assert lwdc_in("train", *TINY, f"hydra.run.dir='{folder}'")[0] == 0
    before = contents(folder)

    code, _, error = lwdc_in("compress", *TINY, "train.epochs=7", f"hydra.run.dir='{folder}'")
    assert code == 2
    assert "holds a run already" in error
    code, _, error = lwdc_in("compress", f"resume='{folder}'", "train.lr=0.5", "seed=3", "gate=lwdc")
    assert code == 2
    assert "seed: 0 then, 3 now" in error
    assert "train.lr: 0.1 then, 0.5 now" in error
    assert "Traceback" not in error
    assert contents(folder) == before

    code, out, error = lwdc_in("compress", f"resume='{folder}'")
    assert code == 0, error
    assert load_checkpoint(folder / "checkpoint.pt")["done"].keys() == {
        "plan", "baseline", "search", "finetune", "export"
    }  # fmt: skip
    assert [path.name for path in Path().iterdir()] == [folder.name]

    code, again, error = lwdc_in("compress", f"resume='{folder}'")  # it is done: the same tables once more
    assert code == 0, error
    assert again.splitlines()[-1] == out.splitlines()[-1]


def test_a_search_can_be_finetuned_with_other_settings_until_it_has_been(lwdc_in: Run) -> None:
    assert lwdc_in("search", *TINY, "hydra.run.dir=run")[0] == 0
    assert lwdc_in("finetune", "run=run", "finetune.epochs=2")[0] == 0
    code, _, error = lwdc_in("finetune", "run=run", "finetune.epochs=3")
    assert code == 2
    assert "finetune.epochs: 2 then, 3 now" in error
    assert lwdc_in("finetune", "run=run")[0] == 0


def test_evaluating_and_exporting_write_only_into_the_run(lwdc_in: Run) -> None:
    assert lwdc_in("compress", *TINY, "hydra.run.dir=run")[0] == 0
    before = contents(Path("run"))
    code, out, error = lwdc_in("evaluate", "run=run")
    assert code == 0, error
    assert "test: " in out
    code, out, error = lwdc_in("export", "run=run", "export.formats=[safetensors]")
    assert code == 0, error
    assert "model.safetensors" in out
    assert contents(Path("run")).keys() - before.keys() == {"evaluation.json", "model.json", "model.safetensors"}
    assert [path.name for path in Path().iterdir()] == ["run"]


def test_an_interrupt_ends_the_whole_sweep(lwdc_in: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*arguments: object, **options: object) -> None:
        raise Interrupted("stopped in search after step 2 of 3. Go on with: resume=here", signal.SIGINT)

    monkeypatch.setattr(commands, "compress", stopped)
    code, _, error = lwdc_in("compress", "-m", *TINY, "seed=0,1,2", "hydra.sweep.dir=sweep")
    assert code == 130
    assert error.count("resume=here") == 1
    assert "hydra.sweep.dir=sweep" in error
    with Path("sweep/results.csv").open(newline="") as file:
        assert [(row["seed"], row["status"]) for row in csv.DictReader(file)] == [("0", "interrupted")]

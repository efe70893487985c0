"""Launchers: a sweep's runs side by side in processes of their own, real ones."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lwdc import overrides
from lwdc.errors import CheckpointError
from lwdc.training import load_checkpoint

Run = Callable[..., tuple[int, str, str]]  # of the fixture lwdc_in: (*arguments) -> exit code, stdout, stderr

TINY = [
    "backbone=cifar_resnet8",
    "+backbone.options.channels=[4,8,8]",
    "data.limit_train=128",
    "space.candidates=[{op: original}, {op: grouped, groups: 4}, {op: pointwise}]",
    "compute=cpu",
    "compute.threads=1",
    "train.epochs=1",
    "strategy.epochs=1",
    "strategy.refit_images=0",
    "hydra.sweep.dir=sweep",
]
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command in a process of its own: launchers' processes stay on for a while, in the folder they began in."""
    command = [sys.executable, "-m", "lwdc.cli", *arguments]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, text=True, **pipes)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, error = process.communicate(timeout=250)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, error


def rows(folder: Path) -> dict[str, dict[str, str]]:
    """By the number of the run."""
    with (folder / "sweep" / "results.csv").open(newline="") as file:
        return {Path(row["folder"]).name: row for row in csv.DictReader(file)}


def in_a_process(folder: Path) -> Run:
    return lambda *arguments: finish(start(folder, *arguments))


def failing_and_done(run: Run, folder: Path, *launcher: str) -> None:
    """A sweep of two runs, of which the first one fails."""
    code, out, error = run("search", "-m", *TINY, *launcher, "cost.budget=0.001,0.5")
    assert code == 2, error
    assert "cannot be reached" in error and "1 run(s) of the sweep failed" in error and "Traceback" not in error
    assert "search" not in out  # no progress of several runs at once
    found = rows(folder)
    assert [found[number]["status"].split(":")[0] for number in "01"] == ["failed", "done"]
    assert 0 < int(found["1"]["cost_after"]) <= 0.5 * int(found["1"]["cost_before"])


@pytest.mark.timeout(600)
def test_runs_in_processes_of_their_own_leave_rows_and_failures(lwdc_in: Run, tmp_path: Path) -> None:
    failing_and_done(lwdc_in, tmp_path, "hydra/launcher=submitit_local")


@pytest.mark.long  # a dozen imports of torch
@pytest.mark.timeout(600)
@pytest.mark.parametrize("launcher", [["hydra/launcher=submitit_local"], JOBLIB], ids=["submitit_local", "joblib"])
def test_what_runs_in_processes_of_their_own_have_done_is_kept(launcher: list[str], tmp_path: Path) -> None:
    failing_and_done(in_a_process(tmp_path), tmp_path, *launcher)
    records = (tmp_path / "sweep" / "1" / "records.jsonl").read_bytes()
    again = ["search", "-m", *TINY, *launcher, "cost.budget=0.4,0.5"]  # the first one can be reached now
    code, _, error = finish(start(tmp_path, *again))
    assert (code, error) == (0, "")
    assert {row["status"] for row in rows(tmp_path).values()} == {"done"}
    assert (tmp_path / "sweep" / "1" / "records.jsonl").read_bytes() == records  # nothing was done again


@pytest.mark.long  # a dozen imports of torch
@pytest.mark.timeout(600)
def test_joblibs_runs_save_all_when_the_command_is_terminated_and_go_on_when_it_is_given_again(tmp_path: Path) -> None:
    command = ["train", "-m", *TINY, *JOBLIB, "train.epochs=100", "data.valid=20", "seed=0,1,2"]
    process = start(tmp_path, *command)
    while not all(_trains(tmp_path / "sweep" / number) for number in "01"):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code, _, error = finish(process)
    assert code == 128 + signal.SIGTERM
    assert "3 run(s) unfinished; everything is saved" in error and "hydra.sweep.dir=sweep" in error
    assert "Traceback" not in error
    assert {number: row["status"] for number, row in rows(tmp_path).items()} == {"0": "interrupted", "1": "interrupted"}
    assert not (tmp_path / "sweep" / "2" / "checkpoint.pt").exists()  # what has not begun does not begin

    held = [load_checkpoint(tmp_path / "sweep" / number / "checkpoint.pt")["fit"]["state"]["step"] for number in "01"]
    assert all(0 < step < 200 for step in held)
    code, _, error = finish(start(tmp_path, *command))
    assert (code, error) == (0, "")
    assert [row["status"] for row in rows(tmp_path).values()] == ["done"] * 3
    for number, step in zip("01", held, strict=True):
        log = (tmp_path / "sweep" / number / "output.log").read_text()
        assert f"baseline: going on at step {step} of 200" in log


def _trains(folder: Path) -> bool:
    try:
        return load_checkpoint(folder / "checkpoint.pt")["fit"] is not None
    except CheckpointError:
        return False


@pytest.mark.long  # imports of torch, too
@pytest.mark.timeout(600)
def test_a_search_by_optuna_can_have_its_runs_side_by_side(tmp_path: Path) -> None:
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2", "train.lr=interval(0.01,1)"]
    search += ["hydra.sweeper.objectives=[maximise valid_baseline]"]
    code, out, error = finish(start(tmp_path, "train", "-m", *TINY, *JOBLIB, *search))
    assert (code, error) == (0, "")
    assert "of 2 trials are Pareto-optimal: maximise valid_baseline" in out
    assert sorted(rows(tmp_path)) == ["0", "1"]


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "submitit_slurm"])
def test_without_a_launcher_the_error_says_what_to_install(
    lwdc_in: Run, monkeypatch: pytest.MonkeyPatch, launcher: str
) -> None:
    monkeypatch.setattr(overrides, "_installed", lambda module: not module.startswith("hydra_plugins"))
    code, _, error = lwdc_in("compress", "-m", "seed=0,1", f"hydra/launcher={launcher}")
    assert code == 2 and "pip install 'lwdc[launchers]'" in error
    assert not os.listdir()


@pytest.mark.parametrize("choice", sorted(overrides._EXTRAS))
def test_what_is_said_to_be_installable_is_found_once_it_is(lwdc_in: Run, choice: str) -> None:
    code, out, error = lwdc_in("compress", choice, "--cfg", "hydra")
    assert code == 0, error
    assert "n_jobs" in out or "timeout_min" in out


def test_a_module_of_a_package_that_is_not_there_is_not_installed() -> None:
    assert not overrides._installed("hydra_no_such_package.launcher")
    assert not overrides._installed("no_such_module")
    assert overrides._installed("optuna")

"""The command on several processes: it starts them, they write one folder, and one of them speaks."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lwdc import commands

LwdcIn = Callable[..., tuple[int, str, str]]

SETTINGS = [
    "compute=ddp",
    "compute.accelerator=cpu",
    "backbone=cifar_resnet8",
    "+backbone.options.channels=[4,8,8]",
    "train.epochs=1",
    "strategy.epochs=1",
    "finetune.epochs=0",
    "export.formats=[]",
    "latency_batches=[]",
]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, list[str]]]:
    """What would have been started; it ends well, with nothing done."""
    calls: list[tuple[int, list[str]]] = []

    def launch(processes: int, module: str, arguments: list[str]) -> int:
        calls.append((processes, list(arguments)))
        folder = next(a for a in arguments if a.startswith("hydra.run.dir=")).partition("=")[2].strip("'")
        (Path(folder) / "records.jsonl").touch()
        return CODES.pop() if CODES else 0

    monkeypatch.setattr(commands, "launch", launch)
    return calls


CODES: list[int] = []


def test_a_run_is_started_again_in_every_process_with_its_folder(
    lwdc_in: LwdcIn, started: list[tuple[int, list[str]]], tmp_path: Path
) -> None:
    assert lwdc_in("compress", *SETTINGS, "compute.devices=3", "hydra.run.dir=run") == (0, "", "")
    ((processes, arguments),) = started
    assert processes == 3
    folder = tmp_path / "run"
    assert arguments[0] == "compress"
    assert set(arguments[1:]) == {
        *SETTINGS, "compute.devices=3", f"hydra.run.dir='{folder}'", "hydra.output_subdir=null"
    }  # fmt: skip


def test_runs_of_a_sweep_are_started_one_after_the_other(
    lwdc_in: LwdcIn, started: list[tuple[int, list[str]]], tmp_path: Path
) -> None:
    assert lwdc_in("compress", *SETTINGS, "-m", "seed=1,2", "hydra.sweep.dir=sweep")[0] == 0
    assert ["seed=1" in started[0][1], "seed=2" in started[1][1]] == [True, True]
    assert f"hydra.run.dir='{tmp_path / 'sweep' / '1'}'" in started[1][1]
    assert (tmp_path / "sweep" / "results.csv").read_text().count("done") == 2


@pytest.mark.parametrize(("code", "status"), [(2, 2), (143, 143), (137, 2)])
def test_what_the_processes_end_with_is_the_command_s_end_and_is_not_said_twice(
    code: int, status: int, lwdc_in: LwdcIn, started: list[tuple[int, list[str]]]
) -> None:
    CODES.append(code)
    assert lwdc_in("compress", *SETTINGS, "hydra.run.dir=run") == (status, "", "")


def test_what_cannot_be_had_is_refused_before_a_process_is_started(
    lwdc_in: LwdcIn, started: list[tuple[int, list[str]]]
) -> None:
    code, _, error = lwdc_in("compress", *SETTINGS, "compute.nodes=2", "hydra.run.dir=run")
    assert code == 2 and "compute.nodes=2 needs a launcher" in error
    code, _, error = lwdc_in("compress", *SETTINGS, "compute.precision=16-mixed", "hydra.run.dir=run2")
    assert code == 2 and "needs a GPU" in error
    assert started == []


def test_a_sweep_under_torchrun_is_refused(lwdc_in: LwdcIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    code, _, error = lwdc_in("compress", *SETTINGS, "-m", "seed=1,2")
    assert code == 2 and "a sweep starts the processes of its runs itself: call lwdc without torchrun" in error


def start(command: list[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def records(folder: Path) -> list[dict[str, Any]]:
    file = folder / "records.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.long
def test_real_processes_stop_on_a_signal_and_go_on(tmp_path: Path) -> None:
    """Started by the command, stopped by SIGTERM, resumed under torchrun."""
    given = [*SETTINGS, "strategy.epochs=30", "hydra.run.dir=run"]
    process = start([sys.executable, "-m", "lwdc.cli", "compress", *given], tmp_path)
    deadline = time.monotonic() + 120
    while not any(r.get("phase") == "search" for r in records(tmp_path / "run")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert err.count("error: ") == 1 and "stopped in search after step" in err
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    process = start([*torchrun, "lwdc.cli", "compress", "resume=run", "strategy.epochs=30"], tmp_path)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert out.count("everything lies in") == 1 and "going on at step" in out
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.long
def test_an_error_of_real_processes_is_told_once(tmp_path: Path) -> None:
    process = start([sys.executable, "-m", "lwdc.cli", "compress", *SETTINGS, "cost.budget=1%"], tmp_path)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err.count("error: budget '1%'") == 1 and "Traceback" not in err

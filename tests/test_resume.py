"""A killed run, resumed, ends as it would have ended: real processes and real signals."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lwdc.errors import CheckpointError
from lwdc.training import load_checkpoint

SETTINGS = [
    "backbone=cifar_resnet8",
    "+backbone.options.channels=[4,8,8]",
    "compute=cpu",
    "compute.threads=1",
    "train.epochs=2",
    "strategy.epochs=2",
    "finetune.epochs=2",
    "gate=gumbel",
    "export.formats=[]",
    "latency_batches=[]",
    "checkpoint.every_minutes=0",
]


def start(folder: Path, *settings: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lwdc.cli", "compress", *settings, f"hydra.run.dir={folder}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return out


def stop_in(process: subprocess.Popen[str], folder: Path, phase: str, number: int) -> tuple[int, str]:
    """Send a signal once the checkpoint holds some steps of the phase; the step that it holds then, and stderr."""
    deadline = time.monotonic() + 200
    while checkpointed(folder, phase) < 3:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    error = process.communicate(timeout=60)[1]
    return checkpointed(folder, phase), error


def checkpointed(folder: Path, phase: str) -> int:
    """Steps of the phase in the checkpoint; 0 while it holds another phase."""
    try:
        fit = load_checkpoint(folder / "checkpoint.pt")["fit"]
    except CheckpointError:
        return 0
    return fit["state"]["step"] if fit and fit["state"]["phase"] == phase else 0


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def epochs(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k != "seconds"} for r in records(folder) if r["record"] == "EpochRecord"]


def going_on(folder: Path) -> list[str]:
    return [r["text"] for r in records(folder) if r["record"] == "Note" and "going on" in r["text"]]


def assert_same_end(folder: Path, undisturbed: Path) -> None:
    for name in ("baseline", "discretised", "finetuned"):
        ours, theirs = (load_file(f / f"{name}.safetensors") for f in (folder, undisturbed))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    ours, theirs = (load_checkpoint(f / "supernet.pt")["state"] for f in (folder, undisturbed))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert epochs(folder) == epochs(undisturbed)  # neither gaps nor repeats, and the same figures


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(start(folder, *SETTINGS))
    return folder


def test_a_run_killed_in_every_phase_ends_with_the_same_weights(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    held = {}
    process = start(folder, *SETTINGS)
    for phase in ("baseline", "search", "finetune"):
        held[phase], _ = stop_in(process, folder, phase, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        process = start(folder, f"resume={folder}")
    finish(process)
    assert_same_end(folder, undisturbed)
    # Only the steps after the checkpoint ran again.
    assert going_on(folder) == [f"{phase}: going on at step {step} of {2 * 16}" for phase, step in held.items()]


def test_interrupt_and_terminate_save_everything_and_say_how_to_go_on(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(folder, *SETTINGS)
    held, error = stop_in(process, folder, "baseline", signal.SIGINT)
    assert process.returncode == 130
    assert f"resume={folder}" in error
    assert "Traceback" not in error

    process = start(folder, f"resume={folder}")
    stop_in(process, folder, "finetune", signal.SIGTERM)
    assert process.returncode == 143
    assert going_on(folder) == [f"baseline: going on at step {held} of {2 * 16}"]

    process = start(folder, f"resume={folder}", "strategy.lr=0.5")
    error = process.communicate(timeout=100)[1]
    assert process.returncode == 2
    assert "strategy.lr: 0.02 then, 0.5 now" in error

    finish(start(folder, f"resume={folder}", *SETTINGS))  # the whole command again is as good
    assert_same_end(folder, undisturbed)

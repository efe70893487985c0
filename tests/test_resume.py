"""A killed run, resumed, ends as it would have ended: real processes and real signals."""

import io
import os
import signal
import sys
import tarfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lwdc.errors import CheckpointError
from lwdc.tracking import read_records
from lwdc.training import load_checkpoint

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments" / "faults"))

from checks import differences, half_written
from started import start

SETTINGS = [
    "backbone=cifar_resnet8",
    "+backbone.options.channels=[4,8,8]",
    "compute=cpu",
    "compute.threads=1",
    "train.epochs=2",
    "strategy.epochs=2",
    "finetune.epochs=2",
    "gate=gumbel",
    "space.include=[layer1*,layer3.0.conv2]",
    "space.candidates=[{op: original}, {op: grouped, groups: 2}, {op: separable}, {op: low_rank, ratio: 0.25}]",
    "cost.budget=0.8",
    "export.formats=[safetensors,onnx]",
    "latency_batches=[]",
    "checkpoint.every_minutes=0",
]


def compress(folder: Path, *settings: str) -> BaseProcess:
    folder.mkdir(exist_ok=True)
    return start(["compress", *settings, f"hydra.run.dir={folder}"], folder / "said.log")


def said(folder: Path) -> str:
    return (folder / "said.log").read_text()


def finish(process: BaseProcess, folder: Path) -> None:
    process.join(200)
    assert process.exitcode == 0, said(folder)


def stop_in(process: BaseProcess, folder: Path, phase: str, number: int) -> int:
    """Send a signal once the checkpoint holds some steps of the phase; the step that it holds then."""
    checkpoint, seen = folder / "checkpoint.pt", 0

    def ready() -> bool:
        nonlocal seen
        written = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        before, seen = seen, written
        return written != before and checkpointed(folder, phase) >= 3

    return stop_once(process, folder, number, ready) or checkpointed(folder, phase)


def stop_once(process: BaseProcess, folder: Path, number: int, ready: Any) -> None:
    deadline = time.monotonic() + 200
    while not ready():
        assert process.is_alive(), said(folder)
        assert time.monotonic() < deadline
        time.sleep(0.02)  # reading a checkpoint takes as long as a step
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(60)
    assert half_written(folder) == []


def checkpointed(folder: Path, phase: str) -> int:
    """Steps of the phase in the checkpoint; 0 while it holds another phase."""
    try:
        fit = load_checkpoint(folder / "checkpoint.pt")["fit"]
    except CheckpointError:
        return 0
    return fit["state"]["step"] if fit and fit["state"]["phase"] == phase else 0


def going_on(folder: Path) -> list[str]:
    lines = read_records(folder / "records.jsonl")
    return [r["text"] for r in lines if r["record"] == "Note" and "going on" in r["text"]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(compress(folder, *SETTINGS), folder)
    return folder


def test_a_run_killed_in_every_phase_ends_with_the_same_weights(undisturbed: Path, tmp_path: Path) -> None:
    """By one command, which begins the run and goes on with it, as a scheduler gives it again."""
    folder = tmp_path / "run"
    command = (*SETTINGS, "resume=auto")
    held = {}
    for phase in ("baseline", "search", "finetune"):
        process = compress(folder, *command)
        held[phase] = stop_in(process, folder, phase, signal.SIGKILL)
        assert process.exitcode == -signal.SIGKILL
    for file in ("finetuned.safetensors", "model.json"):
        process = compress(folder, *command)
        stop_once(process, folder, signal.SIGKILL, (folder / file).exists)
        assert process.exitcode == -signal.SIGKILL
    finish(compress(folder, *command), folder)
    assert differences(folder, undisturbed) == []
    # Only the steps after the checkpoint ran again.
    assert going_on(folder)[:3] == [f"{phase}: going on at step {step} of {2 * 16}" for phase, step in held.items()]


def test_interrupt_and_terminate_save_everything_and_say_how_to_go_on(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = compress(folder, *SETTINGS)
    held = stop_in(process, folder, "baseline", signal.SIGINT)
    assert process.exitcode == 130
    assert f"everything is saved. Go on with: resume={folder}" in said(folder)

    process = compress(folder, f"resume={folder}")
    stop_in(process, folder, "finetune", signal.SIGTERM)
    assert process.exitcode == 143
    assert going_on(folder) == [f"baseline: going on at step {held} of {2 * 16}"]
    assert "Traceback" not in said(folder)

    process = compress(folder, f"resume={folder}", "strategy.lr=0.5")
    process.join(100)
    assert process.exitcode == 2
    assert "strategy.lr: 0.02 then, 0.5 now" in said(folder)

    finish(compress(folder, f"resume={folder}", *SETTINGS), folder)  # the whole command again is as good
    assert differences(folder, undisturbed) == []


def write_shards(folder: Path, split: str, count: int) -> None:
    """``count`` images of two classes in each of three shards."""
    rng = np.random.default_rng(0)
    for shard in range(3):
        with tarfile.open(folder / f"{split}-{shard}.tar", "w") as archive:
            for i in range(count):
                image = io.BytesIO()
                pixels = rng.integers(100 * (i % 2), 100 * (i % 2) + 100, (10, 10, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(image, "png")
                for name, content in ((f"{i}.png", image.getvalue()), (f"{i}.cls", str(i % 2).encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


@pytest.mark.long
def test_a_run_on_shards_killed_in_its_search_and_its_fine_tuning_ends_with_the_same_weights(tmp_path: Path) -> None:
    """Of images that are cropped, flipped and cut at random by processes that die with it."""
    write_shards(tmp_path, "train", 30)
    write_shards(tmp_path, "val", 4)
    command = (
        *SETTINGS, "export.formats=[safetensors]", "resume=auto", "data=webdataset", f"data.root={tmp_path}",
        "data.image_size=8", "data.workers=1", "+data.augment.re_prob=0.5", "train.epochs=1", "train.batch_size=10",
        "strategy.batch_size=10", "finetune.batch_size=10",
    )  # fmt: skip
    alone, folder = tmp_path / "alone", tmp_path / "run"
    finish(compress(alone, *command), alone)
    held = {}
    for phase in ("search", "finetune"):
        process = compress(folder, *command)
        held[phase] = stop_in(process, folder, phase, signal.SIGKILL)
        assert process.exitcode == -signal.SIGKILL
    finish(compress(folder, *command), folder)
    assert differences(folder, alone) == []
    assert going_on(folder) == [f"{phase}: going on at step {step} of {2 * 8}" for phase, step in held.items()]

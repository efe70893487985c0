"""Kill runs at random moments of every phase, go on with them, and compare their ends with that of a run left alone."""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from checks import differences, half_written
from started import start

from lwdc.errors import CheckpointError
from lwdc.training import load_checkpoint

SETTINGS = [
    "backbone=cifar_resnet8", "+backbone.options.channels=[4,8,8]", "compute=cpu", "compute.threads=1", "gate=gumbel",
    "data.limit_train=640", "train.epochs=3", "strategy.epochs=3", "finetune.epochs=3", "latency_batches=[1]",
    "checkpoint.every_minutes=0.005",
]  # fmt: skip
BEGINS = {  # phase -> the file that appears as it begins
    "prepare": None,
    "baseline": "costs.json",
    "search": "baseline.safetensors",
    "choice": "supernet.pt",
    "finetune": "architecture.json",
    "export": "finetuned.safetensors",
    "summary": "summary.json",
    "report": None,  # of another command: lwdc report
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ENDS = {  # exit status: where lwdc answers the signal itself, and where it has not begun to, or is done
    signal.SIGKILL: (-signal.SIGKILL,),
    signal.SIGTERM: (143, -signal.SIGTERM),
    signal.SIGINT: (130, -signal.SIGINT),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=56)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.jsonl"))
    given = parser.parse_args()
    draw = random.Random(given.seed)
    began = time.monotonic()
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        undisturbed = Path(scratch) / "undisturbed"
        took = left_alone(undisturbed)
        print("seconds:", {phase: round(seconds, 2) for phase, seconds in took.items()})
        while sum(line["record"] == "kill" for line in lines) < given.kills:
            run = sum(line["record"] == "run" for line in lines)
            lines += killed_in_every_phase(Path(scratch) / f"run{run}", undisturbed, run, took, draw)
    kills = [line for line in lines if line["record"] == "kill"]
    failures = [line for line in lines if line["failures"]]
    lines.append(
        {
            "record": "summary",
            "kills": len(kills),
            "runs": sum(line["record"] == "run" for line in lines),
            "phases": Counter(line["phase"] for line in kills),
            "signals": Counter(line["signal"] for line in kills),
            "failures": len(failures),
            "minutes": round((time.monotonic() - began) / 60, 1),
        }
    )
    given.out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(json.dumps(lines[-1], indent=2))
    sys.exit(1 if failures else 0)


def command(folder: Path, phase: str) -> list[str]:
    """The same to begin a run and to go on with it."""
    return ["report", str(folder)] if phase == "report" else [
        "compress", *SETTINGS, f"hydra.run.dir={folder}", "resume=auto"
    ]  # fmt: skip


def left_alone(folder: Path) -> dict[str, float]:
    """A run that nobody disturbs; how long each of its phases took, in seconds."""
    folder.mkdir()
    begun = {}
    for last in ("summary", "report"):
        process = start(command(folder, last), folder / "said.log")
        begun["prepare" if last == "summary" else "report"] = time.monotonic()
        while process.is_alive():
            for phase, file in BEGINS.items():
                if file is not None and phase not in begun and (folder / file).exists():
                    begun[phase] = time.monotonic()
            time.sleep(0.001)
        assert process.exitcode == 0, (folder / "said.log").read_text()
    moments = [begun[phase] for phase in BEGINS] + [time.monotonic()]
    return {phase: later - now for phase, now, later in zip(BEGINS, moments[:-1], moments[1:], strict=True)}


def killed_in_every_phase(
    folder: Path, undisturbed: Path, run: int, took: dict[str, float], draw: random.Random
) -> list[dict[str, Any]]:
    """One run, killed once in every phase and then left to end; a line of the record for each kill and for the end."""
    folder.mkdir()
    log = folder / "said.log"
    log.touch()
    lines = []
    for number, phase in enumerate(BEGINS):
        given = SIGNALS[(run + number) % len(SIGNALS)]
        delay = draw.uniform(0, took[phase])
        before = identity(folder)
        process = start(command(folder, phase), log)
        reach(process, folder, phase, before)
        linger(process, folder, phase, delay)
        hit = phase if phase in ("prepare", "report") else at_work(folder)
        if process.is_alive():
            os.kill(process.pid or 0, given)
            process.join()
        if process.exitcode == 0 and (phase == "report" or checkpointed(folder) == "export done"):
            continue  # it had come to its end: that is no kill
        failures = [f"half-written: {name}" for name in half_written(folder)]
        if process.exitcode not in ENDS[given]:
            failures.append(f"exit status {process.exitcode}")
        if "Traceback" in log.read_text():
            failures.append("a traceback")
        lines.append(
            {
                "record": "kill", "run": run, "aim": phase, "phase": hit, "signal": given.name,
                "seconds_into": round(delay, 3), "exit": process.exitcode, "checkpoint": checkpointed(folder),
                "failures": failures,
            }
        )  # fmt: skip
        print(lines[-1])
    for last in ("summary", "report"):
        process = start(command(folder, last), log)
        process.join()
    failures = differences(folder, undisturbed) + ([] if process.exitcode == 0 else [log.read_text()[-2000:]])
    lines.append({"record": "run", "run": run, "failures": failures})
    print(lines[-1])
    return lines


def identity(folder: Path) -> int | None:
    """Of the records' file, which a run writes anew as it goes on."""
    path = folder / "records.jsonl"
    return path.stat().st_ino if path.exists() else None


def reach(process: BaseProcess, folder: Path, phase: str, before: int | None) -> None:
    """Wait until the run is at work again and the phase has begun, or the process has ended."""
    file = BEGINS[phase]
    while file is not None and process.is_alive() and (identity(folder) == before or not (folder / file).exists()):
        time.sleep(0.001)


def linger(process: BaseProcess, folder: Path, phase: str, seconds: float) -> None:
    """Wait so long, but not into the next phase, unless the phase is over already."""
    following = [*BEGINS.values(), None][list(BEGINS).index(phase) + 1]
    ahead = following is not None and not (folder / following).exists()
    until = time.monotonic() + seconds
    while process.is_alive() and time.monotonic() < until and not (ahead and (folder / str(following)).exists()):
        time.sleep(0.001)


def at_work(folder: Path) -> str:
    """The phase that a run is in, by its files."""
    return [phase for phase, file in BEGINS.items() if file is None or (folder / file).exists()][-2]


def checkpointed(folder: Path) -> str:
    """What the checkpoint holds."""
    try:
        state = load_checkpoint(folder / "checkpoint.pt")
    except CheckpointError:
        return "none"
    if state["fit"]:
        return f"{state['fit']['state']['phase']}, step {state['fit']['state']['step']}"
    return f"{[*state['done']][-1]} done" if state["done"] else "begun"


if __name__ == "__main__":
    main()

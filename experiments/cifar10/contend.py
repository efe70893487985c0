"""lwdc against what a user would pick instead, on CIFAR-10, side by side. README.md says how to read it.

    python experiments/cifar10/contend.py run lwdc --point 2.1 --seed 0 --data DATA --weights FILE
    python experiments/cifar10/contend.py run --all --minutes 9 --data DATA --weights FILE   # whatever is missing
    python experiments/cifar10/contend.py latency      # ONNX Runtime on the CPU, every recorded network
    python experiments/cifar10/contend.py table        # summary.md and the plots, from the raw records

A run that stops, for whatever reason, goes on by the same command; exit code 75 says that there is more to do.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from contenders import CONTENDERS, UNCOMPRESSED, Job
from latency import measure_all
from pruning import torch_pruning
from record import Memory, measure
from results import add_record, recorded
from setting import NETWORKS, POINTS, SEEDS, Entry, Setting
from summary import summarise

from lwdc.errors import LwdcError
from lwdc.files import write_json
from lwdc.pipeline import Interrupted
from lwdc.records import Record
from lwdc.tracking import TerminalSink

HERE = Path(__file__).parent
MORE_TO_DO = 75  # what sysexits.h calls a failure that another try may mend
MEMORY = "memory.json"


class Deadline:
    """A sink that ends a run's training, as a signal would, once its time is over."""

    def __init__(self, minutes: float | None) -> None:
        self._end = None if minutes is None else time.monotonic() + 60 * minutes

    @property
    def over(self) -> bool:
        return self._end is not None and time.monotonic() > self._end

    def progress(self, phase: str, epoch: int, epochs: int, step: int, steps: int, loss: float | None) -> None:
        del phase, epoch, epochs, step, steps, loss
        if self.over:
            os.kill(os.getpid(), signal.SIGTERM)

    def write(self, record: Record) -> None:
        del record

    def close(self) -> None:
        return


def main(arguments: list[str] | None = None) -> int:
    """The exit code."""
    asked = _parser().parse_args(arguments)
    try:
        if asked.command == "latency":
            write_json(asked.records.with_name("latency.json"), measure_all(asked.records, asked.out, asked.rounds))
        elif asked.command == "table":
            print(summarise(asked.records))
        else:
            return _run(asked)
    except Interrupted as stop:
        print(f"{str(stop).partition(' Go on with')[0]} Go on by the same command.", file=sys.stderr)
        return MORE_TO_DO
    except KeyboardInterrupt:
        print("stopped at once; what the last checkpoint holds is safe. Go on by the same command.", file=sys.stderr)
        return MORE_TO_DO
    except LwdcError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train contenders and record them")
    run.add_argument("contender", nargs="?", choices=list(CONTENDERS))
    run.add_argument("--all", action="store_true", help="every run that is not recorded, in the order of work")
    run.add_argument("--network", choices=list(NETWORKS), default="resnet20")
    run.add_argument("--point", type=float, default=POINTS[0], help="times fewer MACs")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--data", type=Path, default=Path("data"), help="the folder of cifar-10-batches-py/")
    run.add_argument("--weights", type=Path, required=True, help="trained weights of the network, safetensors")
    run.add_argument("--epochs", type=int, default=10, help="of training in all, search included")
    run.add_argument("--search", type=int, help="of them, of the search or sparse learning; default: half")
    run.add_argument("--labels-only", action="store_true", help="no distillation from the original, for anyone")
    run.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of lwdc compress, for all")
    run.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    run.add_argument("--minutes", type=float, help="stop after so long, with everything saved")
    latency = commands.add_parser("latency", help="time every recorded network")
    latency.add_argument("--rounds", type=int, default=15)
    for command in (run, latency):
        command.add_argument(
            "--out", type=Path, default=Path("outputs/cifar10"), help="the folder of the runs' folders"
        )
    table = commands.add_parser("table", help="tables and plots from the raw records")
    for command in (run, latency, table):
        command.add_argument("--records", type=Path, default=HERE / "results.jsonl")
    return parser


def _run(asked: argparse.Namespace) -> int:
    if asked.all == (asked.contender is not None):
        raise LwdcError(f"name a contender ({', '.join(CONTENDERS)}), or --all.")
    search = asked.search if asked.search is not None else asked.epochs // 2
    setting = Setting(asked.network, asked.epochs, search, not asked.labels_only, tuple(sorted(asked.set)))
    deadline = Deadline(asked.minutes)
    failed = 0
    for entry in all_entries(setting) if asked.all else [_named(asked, setting)]:
        if entry in recorded(asked.records):
            continue
        if deadline.over:
            print("the time is over; go on by the same command", file=sys.stderr)
            return MORE_TO_DO
        try:
            run_entry(entry, asked, deadline)
        except Interrupted:
            raise
        except LwdcError as error:
            if not asked.all:
                raise
            print(f"{entry.name} failed: {error}", file=sys.stderr)
            failed += 1
    return 2 if failed else 0


def all_entries(setting: Setting) -> Iterator[Entry]:
    """The order of work: point by point, seed by seed, every contender."""
    yield Entry(setting, "original", 1.0, 0)
    for seed in SEEDS:
        yield Entry(setting, "trained_on", 1.0, seed)
    for point in POINTS:
        for seed in SEEDS:
            for contender in CONTENDERS:
                if contender not in UNCOMPRESSED:
                    yield Entry(setting, contender, point, seed)


def _named(asked: argparse.Namespace, setting: Setting) -> Entry:
    if asked.contender == "original":
        return Entry(setting, "original", 1.0, 0)
    point = 1.0 if asked.contender in UNCOMPRESSED else asked.point
    return Entry(setting, asked.contender, point, asked.seed)


def run_entry(entry: Entry, asked: argparse.Namespace, deadline: Deadline) -> None:
    """Run one entry to its end, or up to the deadline, and record it."""
    if entry.contender.startswith("depgraph"):
        torch_pruning()  # imported, or missed, before anything is measured
    settings, config = entry.configure(asked.data, asked.weights, asked.threads)
    job = Job(entry, settings, config, asked.out / entry.name, asked.records, (TerminalSink(), deadline))
    print(f"{entry.name}: at most {entry.bound():,} MACs", flush=True)
    settings.data.prepare(settings.compute.fabric().device)
    memory = Memory()
    try:
        outcome = CONTENDERS[entry.contender](job)
    finally:
        peak = _most(job.folder / MEMORY, memory.peak())
    record = measure(job, outcome, peak)
    add_record(asked.records, record)
    print(
        f"{entry.name}: test {record['test_accuracy']:.2%}, {record['macs']:,} MACs, "
        f"{record['params']:,} parameters, {record['seconds']['all']:.0f} s",
        flush=True,
    )


def _most(file: Path, peak: dict[str, int]) -> dict[str, int]:
    """The largest peaks over all pieces of a run, which ``file`` keeps."""
    before = json.loads(file.read_text()) if file.is_file() else {}
    most = {kind: max(size, before.get(kind, 0)) for kind, size in peak.items()}
    write_json(file, most)
    return most


if __name__ == "__main__":
    sys.exit(main())

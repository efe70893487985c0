"""Searches by scores, the joint search and no search at the same bound on parameters, on real images.

    python compare.py --data FOLDER --work FOLDER [--seeds N ...] [--sweeps NAME ...] [-- OVERRIDES]
    python compare.py --table      # markdown tables of what is recorded

A seed is one command ``lwdc compress -m`` for each sweep of a task, in a folder of its own; they share a baseline, and
within a sweep also a supernet and evaluations. What is finished in a folder is kept, so an interrupted comparison goes
on. ``results.jsonl`` has a line a network, ``correlations.jsonl`` a line a seed.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from lwdc.files import write_text
from lwdc.tracking.jsonl import read_records

HERE = Path(__file__).parent
RESULTS, CORRELATIONS = HERE / "results.jsonl", HERE / "correlations.jsonl"


@dataclasses.dataclass(frozen=True)
class Task:
    """A network on a data set, what its layers may become, and the sweeps that are compared."""

    operators: str
    settings: tuple[str, ...]
    sweeps: dict[str, "Sweep"]  # the first one trains the baseline for all


@dataclasses.dataclass(frozen=True)
class Sweep:
    """One command, and what its runs are called."""

    names: tuple[str, ...]
    overrides: tuple[str, ...]


SHARED = (
    "strategy.evaluations=100", "strategy.beginning=false",
    "strategy.evaluators.shared.images=1000", "strategy.evaluators.shared.batches=10",
)  # fmt: skip
REFITTED = (
    "strategy.epochs=0", "strategy.evaluator=refitted",
    "strategy.evaluators.refitted.images=1000",
)  # fmt: skip
FEW = ("strategy.evaluations=40", "strategy.batch=8", *REFITTED, "strategy.evaluators.refitted.batches=8")
WIDE = (
    "{op:original},{op:factorised,ratio:0.125},{op:factorised,ratio:0.0625},{op:low_rank,ratio:0.125},"
    "{op:low_rank,ratio:0.0625},{op:low_rank,ratio:0.03125},{op:grouped,groups:32},{op:separable},{op:epitome,ratio:16}"
)


def cifar100(backbone: str, budget: str) -> Task:
    """At the parameters of a row of ESNAC's README, with as many evaluations; sized for a GPU, never run so far."""
    return Task(
        WIDE,
        (
            f"backbone={backbone}", "data=cifar100", f"cost.budget={budget}",
            "train.epochs=200", "train.batch_size=128", "train.lr=0.1",
            "finetune.epochs=100", "finetune.batch_size=128", "finetune.lr=0.05",
        ),
        {
            "refitted": Sweep(
                ("random", "evolution", "latent", "bayes", "local"),
                ("strategy=random,evolution,latent,bayes,local", "strategy.evaluations=160", *REFITTED),
            ),
            "joint": Sweep(("joint", "no search"), ("strategy.epochs=50,0", "strategy.beginning=false")),
        },
    )  # fmt: skip


TASKS = {
    "fashion_mnist": Task(
        "{op:original},{op:factorised,ratio:0.5},{op:factorised,ratio:0.25},{op:factorised,ratio:0.125},"
        "{op:low_rank,ratio:0.125},{op:low_rank,ratio:0.0625},{op:grouped,groups:8},{op:separable},{op:pointwise},"
        "{op:epitome,ratio:8}",
        (
            "backbone=cifar_resnet20", "data=fashion_mnist", "data.limit_train=10000", "data.valid=3000",
            "cost.budget=10%", "train.epochs=8", "finetune.epochs=4", "strategy.recalibrate_batches=20",
        ),
        {
            "scored": Sweep(
                ("random", "evolution", "latent", "bayes"),
                (
                    "strategy=random,evolution,latent,bayes", "strategy.epochs=6", *SHARED, "strategy.correlate=20",
                    "strategy.evaluators.refitted.images=1000",
                    "strategy.evaluators.fine_tuned.steps=60", "strategy.evaluators.fine_tuned.images=1000",
                    "strategy.evaluators.fine_tuned.batches=10",
                    "strategy.evaluators.from_scratch.epochs=2", "strategy.evaluators.from_scratch.images=1000",
                ),
            ),
            "joint": Sweep(("joint", "no search"), ("strategy.epochs=6,0", "strategy.beginning=false")),
            "softmax": Sweep(
                ("joint, softmax",), ("gate=softmax", "strategy.epochs=6", "strategy.beginning=false")
            ),
            "refitted": Sweep(
                ("local, refitted",),
                ("strategy=local", "strategy.proposer.begin=0", "strategy.evaluations=100", *REFITTED),
            ),
            "refitted_evolution": Sweep(
                ("evolution, refitted",), ("strategy=evolution", "strategy.evaluations=100", *REFITTED)
            ),
            "evolve_space": Sweep(
                ("evolve_space, refitted",), ("strategy=evolve_space", "strategy.evaluations=100", *REFITTED)
            ),
            "branches": Sweep(
                ("evolve_space, refitted, two branches",),
                ("strategy=evolve_space", "space.branches=2", "strategy.evaluations=100", *REFITTED),
            ),
            "no_search_branches": Sweep(
                ("no search, two branches",),
                ("strategy.epochs=0", "space.branches=2", "strategy.beginning=false"),
            ),
        },
    ),
    "cifar10_vgg16_bn": Task(
        WIDE,
        (
            "backbone=cifar_vgg16_bn", "data=cifar10", "cost.budget=5%",
            "train.epochs=6", "train.batch_size=128", "train.lr=0.05",
            "finetune.epochs=5", "finetune.batch_size=128", "finetune.lr=0.05",
            "strategy.recalibrate_batches=20",
        ),
        {
            "latent": Sweep(
                ("latent, refitted",),
                (
                    "strategy=latent", "strategy.proposer.begin=16", "strategy.proposer.proposals=8",
                    "strategy.proposer.explore=0", *FEW,
                ),
            ),
            "random": Sweep(("random, refitted",), ("strategy=random", *FEW)),
            "evolution": Sweep(
                ("evolution, refitted",), ("strategy=evolution", "strategy.proposer.population=16", *FEW)
            ),
            "bayes": Sweep(("bayes, refitted",), ("strategy=bayes", "strategy.proposer.begin=16", *FEW)),
            "local": Sweep(("local, refitted",), ("strategy=local", "strategy.proposer.begin=0", *FEW)),
            "joint": Sweep(("joint", "no search"), ("strategy.epochs=3,0", "strategy.beginning=false")),
        },
    ),
    "cifar100_vgg19_bn": cifar100("cifar_vgg19_bn", "15.29%"),
    "cifar100_resnet18": cifar100("cifar_resnet18", "11.23%"),
    "cifar100_resnet34": cifar100("cifar_resnet34", "13.36%"),
}  # fmt: skip


def command(task: Task, overrides: Sequence[str], options: argparse.Namespace) -> list[str]:
    """What ``lwdc compress -m`` is told of a sweep, but for its folder."""
    return [
        *task.settings, f"data.root={options.data}", "cost=params", f"space.candidates=[{task.operators}]",
        "strategy.batch_size=128", "export.formats=[]", *overrides, f"compute.threads={options.threads}",
        "compute=cpu", *options.overrides,
    ]  # fmt: skip


def compress(folder: Path, overrides: Sequence[str], options: argparse.Namespace) -> None:
    """One sweep; what lies finished in its folder is not done again."""
    told = command(TASKS[options.task], overrides, options)
    lwdc = [sys.executable, "-m", "lwdc.cli", "compress", "-m"]
    subprocess.run([*lwdc, *told, f"hydra.sweep.dir={folder}"], check=True)


def summaries(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The results of a sweep with their folders, in the order of its runs."""
    paths = sorted(folder.glob("*/summary.json"), key=lambda path: int(path.parent.name))
    return [(path.parent, json.loads(path.read_text())) for path in paths]


def spent(run: Path) -> dict[str, float]:
    """Seconds of evaluating and of asking, also where another run of the sweep has evaluated."""
    found = [r for r in read_records(run / "records.jsonl") if r["record"] == "EvaluationRecord"]
    return {name: sum(r[key] for r in found) for name, key in (("evaluate", "seconds"), ("ask", "ask_seconds"))}


def row_of(
    task: str, name: str, seed: int, run: Path, summary: dict[str, Any], overrides: Sequence[str]
) -> dict[str, Any]:  # fmt: skip
    """What is recorded of one network."""
    evaluated = [r for r in read_records(run / "records.jsonl") if r["record"] == "EvaluationRecord"]
    return {
        "task": task,
        "search": name,
        "seed": seed,
        "params": [summary[when]["params"] for when in ("before", "after")],
        "macs": [summary[when]["macs"] for when in ("before", "after")],
        "latency_ms": [summary[when]["latency_ms"] for when in ("before", "after")],
        "test": summary["test"],
        "valid": summary["valid"],
        "seconds": summary["seconds"] | spent(run),
        "evaluations": [r["accuracy"] for r in evaluated],  # in their order
        "operators": {site["site"]: site["operator"] for site in summary["sites"]},
        "overrides": list(overrides),
        "environment": summary["environment"],
    }


def compare(seed: int, options: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The networks of one seed, and how its evaluators rank, where that was asked for."""
    found, ranked, first = [], [], None
    for kind, sweep in TASKS[options.task].sweeps.items():
        folder = options.work / f"{options.task}-{kind}-{seed}"
        if options.sweeps and kind not in options.sweeps:
            first = first or folder
            continue
        if not options.collect:
            trained = () if first is None else (f"baseline={first / '0'}",)
            compress(folder, [*sweep.overrides, *trained, f"seed={seed}"], options)
        first = first or folder
        done = summaries(folder)
        if options.collect and len(done) < len(sweep.names):
            continue
        for name, (run, summary) in zip(sweep.names, done, strict=True):
            found.append(row_of(options.task, name, seed, run, summary, options.overrides))
            ranked += [r for r in read_records(run / "records.jsonl") if r["record"] == "CorrelationRecord"]
    return found, [{"task": options.task, "seed": seed, **record} for record in ranked[:1]]


def table(records: list[dict[str, Any]]) -> str:
    """Markdown: a line a search, the mean and the range over seeds."""
    by_search = defaultdict(list)
    for record in records:
        by_search[record["search"]].append(record)
    lines = [
        "| | parameters | MACs | validation | test, fine-tuned | test, before | seconds evaluating | asking | seeds |",
        "|---" * 9 + "|",
    ]
    for name, runs in by_search.items():
        cells = [f"{mean(run[what][1] / run[what][0] for run in runs):.1%}" for what in ("params", "macs")]
        for which, when in (("valid", "finetuned"), ("test", "finetuned"), ("test", "discretised")):
            values = [run[which][when] for run in runs]
            spread = f" ({min(values):.2%} to {max(values):.2%})" if len(values) > 1 else ""
            cells.append(f"{mean(values):.2%}{spread}")
        cells += [f"{mean(run['seconds'][what] for run in runs):.0f}" for what in ("evaluate", "ask")]
        lines.append(f"| {name} | " + " | ".join([*cells, str(len(runs))]) + " |")
    return "\n".join(lines)


def correlations(records: list[dict[str, Any]]) -> str:
    """Markdown: how alike every two evaluators rank, and what one evaluation takes."""
    lines = ["| seed | evaluators | Spearman | seconds of one evaluation |", "|---|---|---|---|"]
    for record in records:
        names = record["evaluators"]
        for i, first in enumerate(names):
            for j in range(i + 1, len(names)):
                seconds = f"{record['seconds'][i]:.1f} and {record['seconds'][j]:.1f}"
                lines.append(f"| {record['seed']} | {first}, {names[j]} | {record['rank'][i][j]:.2f} | {seconds} |")
    return "\n".join(lines)


def recorded(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def record(path: Path, found: list[dict[str, Any]]) -> None:
    """Put what was found in the place of what the file says of the same task, seed and search."""

    def key(line: dict[str, Any]) -> tuple[Any, ...]:
        return line["task"], line["seed"], line.get("search")

    others = [line for line in recorded(path) if key(line) not in {key(line) for line in found}]
    write_text(path, "".join(json.dumps(line) + "\n" for line in [*others, *found]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, help="folder of the runs")
    parser.add_argument("--task", default="fashion_mnist", choices=list(TASKS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--sweeps", nargs="*", help="only these of the task; the first one trains the baseline for all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--collect", action="store_true", help="only record what lies finished in the folder")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    if options.table:
        for task in dict.fromkeys(line["task"] for line in recorded(RESULTS)):
            print(f"{task}\n\n{table([line for line in recorded(RESULTS) if line['task'] == task])}\n")
            print(correlations([line for line in recorded(CORRELATIONS) if line["task"] == task]))
        return
    if options.work is None or (options.data is None and not options.collect):
        parser.error("a comparison needs --data and --work")
    if unknown := set(options.sweeps or ()) - set(TASKS[options.task].sweeps):
        parser.error(f"{options.task} has no sweep {sorted(unknown)}: it has {', '.join(TASKS[options.task].sweeps)}")
    for seed in options.seeds:
        found, ranked = compare(seed, options)
        record(RESULTS, found)
        record(CORRELATIONS, ranked)


if __name__ == "__main__":
    main()

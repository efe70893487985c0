"""One search for a whole front against a search for every point of it, at the same number of steps.

    python fronts.py --data FOLDER --weights FILE --work FOLDER [--contenders NAME ...] [--seeds N ...] [-- OVERRIDES]
    python fronts.py --table      # markdown tables of what is recorded

ResNet-20 on CIFAR-10. Every contender is one ``lwdc compress -m`` over the budgets, in a folder of its own; what is
finished there is kept. ``results.jsonl`` has a line a point.
"""

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # that the weights were trained with
BUDGETS = ("75%", "50%", "33%", "25%")
EPOCHS = 2  # of search for a point
CONTENDERS: dict[str, list[str]] = {
    "separate": [f"strategy.epochs={EPOCHS}"],
    "front": ["strategy=joint_front", f"strategy.epochs={EPOCHS * len(BUDGETS)}"],  # as many steps in all
    "front, a quarter of the steps": ["strategy=joint_front", f"strategy.epochs={EPOCHS}"],
    "no search": ["strategy.epochs=0"],
}
REFERENCE = (1.0, 0.75)  # share of the MACs, accuracy: what is worse in either does not count


def swept(contender: str, seed: int, options: argparse.Namespace) -> Path:
    """The folder of the finished sweep."""
    folder = options.work / f"{contender.replace(', ', '-').replace(' ', '-')}-{seed}"
    subprocess.run(
        [
            sys.executable, "-m", "lwdc.cli", "compress", "-m", "experiment=cifar10_resnet20",
            f"backbone.weights={options.weights}", "train.epochs=0", f"data.root={options.data}", f"data.mean={MEAN}",
            f"data.std={STD}", f"seed={seed}", f"cost.budget={','.join(BUDGETS)}", *CONTENDERS[contender],
            f"compute.threads={options.threads}", *options.overrides, f"hydra.sweep.dir={folder}",
        ],
        check=True,
    )  # fmt: skip
    return folder


def points(folder: Path, contender: str, overrides: list[str]) -> list[dict[str, Any]]:
    found = []
    for path in sorted(folder.glob("*/summary.json"), key=lambda path: int(path.parent.name)):
        summary = json.loads(path.read_text())
        found.append(
            {
                "contender": contender,
                "seed": summary["seed"],
                "budget": summary["costs"][0]["budget"],
                "macs_share": summary["after"]["macs"] / summary["before"]["macs"],
                "test": summary["test"],
                "valid": summary["valid"],
                "seconds": summary["seconds"],
                "operators": {site["site"]: site["operator"] for site in summary["sites"]},
                "overrides": [*CONTENDERS[contender], *overrides],
                "environment": summary["environment"],
            }
        )
    return found


def hypervolume(front: list[tuple[float, float]]) -> float:
    """Area between the points (cost, accuracy) and ``REFERENCE``, where less cost and more accuracy are better."""
    area, best = 0.0, REFERENCE[1]
    ends = sorted(point for point in front if point[0] <= REFERENCE[0])
    for cost, accuracy in ends:
        area += max(accuracy - best, 0.0) * (REFERENCE[0] - cost)
        best = max(best, accuracy)
    return area


def table(records: list[dict[str, Any]]) -> str:
    by_run = defaultdict(list)
    for record in records:
        by_run[record["contender"], record["seed"]].append(record)
    budgets = [b for b in BUDGETS if any(r["budget"] == b for r in records)]
    lines = [
        "| | " + " | ".join(budgets) + " | hypervolume, fine-tuned | before fine-tuning | seconds of search | seeds |",
        "|---" * (len(budgets) + 5) + "|",
    ]
    for contender in [name for name in CONTENDERS if any(r["contender"] == name for r in records)]:
        runs = [run for (name, _), run in sorted(by_run.items()) if name == contender]
        cells = []
        for budget in budgets:
            found = [r["test"]["finetuned"] for run in runs for r in run if r["budget"] == budget]
            cells.append(f"{mean(found):.2%}" + (f" ({min(found):.2%} to {max(found):.2%})" if len(found) > 1 else ""))
        for when in ("finetuned", "discretised"):
            volumes = [hypervolume([(r["macs_share"], r["test"][when]) for r in run]) for run in runs]
            cells.append(f"{mean(volumes):.4f}" + (f" ({min(volumes):.4f} to {max(volumes):.4f})" if runs[1:] else ""))
        cells.append(f"{mean(sum(r['seconds']['search'] for r in run) for run in runs):.0f}")
        lines.append(f"| {contender} | " + " | ".join([*cells, str(len(runs))]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--work", type=Path, help="folder of the runs")
    parser.add_argument("--contenders", nargs="*", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    known = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.is_file() else []
    if options.table:
        print(table(known))
        return
    for seed in options.seeds:
        for contender in options.contenders:
            found = points(swept(contender, seed, options), contender, options.overrides)
            known = [r for r in known if (r["contender"], r["seed"]) != (contender, seed)] + found
            RESULTS.write_text("".join(json.dumps(record) + "\n" for record in known))


if __name__ == "__main__":
    main()

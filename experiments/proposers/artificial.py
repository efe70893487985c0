"""Searches by scores on an artificial truth: what the search code itself is worth, in seconds and without a network.

    python experiments/proposers/artificial.py --seeds 0 1 2 3 4 5      # all that is not in artificial.jsonl yet
    python experiments/proposers/artificial.py --proposers latent random --seeds 0
    python experiments/proposers/artificial.py --table

Twenty decisions with six candidates each and their real numbers of parameters; the accuracy of an architecture is
made up: a loss for every candidate, larger for cheaper ones, an interaction for every pair of neighbours, and noise.
A line of artificial.jsonl is one search.
"""

import argparse
import itertools
import json
import platform
import random
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lwdc import proposers
from lwdc.costs import Params, tabulate
from lwdc.proposers import Code, Menu, Proposer, compression, kept
from lwdc.space import SearchSpace, make_plan
from lwdc.surgery import wrap

HERE = Path(__file__).parent
RESULTS = HERE / "artificial.jsonl"
CANDIDATES: list[dict[str, Any]] = [
    {"op": "original"},
    {"op": "grouped", "groups": 2},
    {"op": "grouped", "groups": 4},
    {"op": "low_rank", "ratio": 0.25},
    {"op": "separable"},
    {"op": "pointwise"},
]
WIDTHS = [8] * 7 + [16] * 7 + [32] * 6  # of the twenty layers
REFERENCE = 0.95  # accuracy of the original
NOISE = 0.01  # standard deviation of what is told
EVALUATIONS, BATCH = 120, 20
PLAIN = {"flat": 32, "once": True, "begin": 100, "proposals": 20, "explore": 0, "best": 0, "drawn": 0, "cost": "head"}
PROPOSERS: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("RandomSearch", {}),
    "evolution": ("Evolution", {}),
    "local": ("LocalSearch", {}),
    "latent": ("Latent", {}),
    "latent_head": ("Latent", {"cost": "head"}),
    "latent_flat": ("Latent", {"flat": 32}),
    "latent_plain": ("Latent", PLAIN),
    "bayes": ("Bayes", {}),
    "evolve_space": ("EvolveSpace", {}),
    "nsga2": ("Nsga2", {}),
}


def menu(budget: float | None = None) -> Menu:
    """The space, within a share of the parameters."""
    layers = [nn.Conv2d(3, WIDTHS[0], 3, padding=1)]
    layers += [nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise([WIDTHS[0], *WIDTHS])]
    plan = make_plan(nn.Sequential(*layers), SearchSpace(CANDIDATES), (3, 4, 4))
    table = tabulate(wrap(nn.Sequential(*layers), plan=plan), Params())
    return Menu.of(plan, [table], [None if budget is None else int(budget * table.total)])


def truth(space: Menu, seed: int) -> Callable[[Code], float]:
    """The accuracy of every architecture, in [0, 1]: that of the original less losses and interactions."""
    rng = random.Random(f"truth {seed}")
    losses = []
    for costs in space.costs[0]:
        saved = [1 - cost / max(costs) for cost in costs]
        losses.append([0.0, *(rng.uniform(0.0, 2.0) * share for share in saved[1:])])
    pairs = [[[rng.gauss(0, 0.25) for _ in CANDIDATES] for _ in CANDIDATES] for _ in space.counts[1:]]

    def accuracy(code: Code) -> float:
        loss = sum(by_candidate[k] for by_candidate, k in zip(losses, code, strict=True))
        loss += sum(pairs[i][a][b] for i, (a, b) in enumerate(itertools.pairwise(code)) if a or b)
        return min(max(REFERENCE - 0.6 * loss / len(code), 0.0), 1.0)

    return accuracy


def searched(name: str, seed: int, budget: float | None, options: dict[str, Any], commit: str) -> dict[str, Any]:
    """One search; its record."""
    space = menu(budget)
    accuracy, noise = truth(space, seed), random.Random(f"noise {seed}")
    score = compression if budget is None else kept
    kind, own = PROPOSERS[name]
    arguments = {**own, **options}
    proposer: Proposer = getattr(proposers, kind)(space, score=score, reference=REFERENCE, seed=seed, **arguments)
    proposer.tell(space.decode(space.original), REFERENCE, 1.0)
    asking, busy, asked, best = 0.0, 0.0, 0, []
    while asked < EVALUATIONS:
        begun, worked = time.perf_counter(), time.process_time()
        found = proposer.ask(min(BATCH, EVALUATIONS - asked))
        asking, busy = asking + time.perf_counter() - begun, busy + time.process_time() - worked
        if not found:
            break
        asked += len(found)
        for architecture in found:
            code = space.encode(architecture)
            told = min(max(accuracy(code) + noise.gauss(0, NOISE), 0.0), 1.0)
            proposer.tell(architecture, told, space.share(code))
        chosen = proposer.history.best()[0].code
        best.append([asked, score(accuracy(chosen) / REFERENCE, space.share(chosen))])
    return {
        "proposer": name,
        "options": arguments,
        "seed": seed,
        "budget": budget,
        "score": best[-1][1],  # the true one of what is chosen by what was told
        "after": best,  # evaluations -> the same so far
        "evaluations": asked,
        "ask_seconds": asking / asked,  # of one proposal, wall time
        "ask_cpu_seconds": busy / asked,
        "environment": {
            "commit": commit,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        },
    }


def table(records: list[dict[str, Any]]) -> str:
    lines = []
    for budget in sorted({r["budget"] for r in records}, key=lambda b: (b is not None, b)):
        by_name = defaultdict(list)
        for record in records:
            if record["budget"] == budget:
                by_name[record["proposer"]].append(record)
        lines += [
            f"\n{'compression' if budget is None else f'kept, {budget:.0%} of the parameters'}\n",
            "| proposer | score | spread | above evolution | evaluations | processor seconds a proposal | seeds |",
            "|---|---|---|---|---|---|---|",
        ]
        control = {r["seed"]: r["score"] for r in by_name["evolution"]}
        for name in [name for name in PROPOSERS if by_name[name]]:
            found = by_name[name]
            scores = [r["score"] for r in found]
            spread = f"{statistics.stdev(scores):.3f}" if scores[1:] else ""
            paired = [r["score"] > control[r["seed"]] for r in found if r["seed"] in control]
            above = f"{sum(paired)} of {len(paired)}" if paired and name != "evolution" else ""
            lines.append(
                f"| {name} | {statistics.mean(scores):.3f} | {spread} | {above} | "
                f"{statistics.mean(r['evaluations'] for r in found):.0f} | "
                f"{statistics.mean(r['ask_cpu_seconds'] for r in found):.3f} | {len(found)} |"
            )
    return "\n".join(lines)


def _commit() -> str:
    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known_here = [name for name, (kind, _) in PROPOSERS.items() if hasattr(proposers, kind)]
    parser.add_argument("--proposers", nargs="*", default=known_here, choices=known_here)
    parser.add_argument("--seeds", nargs="*", type=int, default=list(range(6)))
    parser.add_argument("--budget", type=float, help="share of the parameters; without it the score is compression")
    parser.add_argument("--options", type=json.loads, default={}, help="further arguments of the proposer, as json")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    commit = _commit()
    done = [json.loads(line) for line in options.results.read_text().splitlines()] if options.results.is_file() else []
    for seed in () if options.table else options.seeds:
        for name in options.proposers:
            if any((r["proposer"], r["seed"], r["budget"]) == (name, seed, options.budget) for r in done):
                continue
            done.append(searched(name, seed, options.budget, options.options, commit))
            with options.results.open("a") as file:
                file.write(json.dumps(done[-1]) + "\n")
    print(table(done))


if __name__ == "__main__":
    main()

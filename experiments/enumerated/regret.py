"""Lets every proposer search the enumerated space, and says how far what it finds is from the best there is.

    python experiments/enumerated/regret.py [--proposers random evolution ...] [--seeds 10] [--tasks budget compression]
    python experiments/enumerated/regret.py --summary
    python experiments/enumerated/regret.py --first 100 --seeds 40 --proposers random evolution local evolve_space \
        evolve_space_without_gates --out experiments/enumerated/regret_further.jsonl

One json line a search. A run that is called again skips the searches that are recorded already.
"""

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import table
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from scipy.stats import wilcoxon

from lwdc.proposers import Proposer, compression, kept

Record = dict[str, Any]
HERE = Path(__file__).parent
EVALUATIONS, BATCH, BUDGET = 120, 10, 0.4
SHOWN = (20, 40, 80, 120)  # evaluations after which regret is shown
TASKS = {"budget": (kept, BUDGET), "compression": (compression, None)}
PROPOSERS = (
    "random", "evolution", "local", "nsga2", "latent", "latent_plain", "bayes", "evolve_space",
    "evolve_space_without_gates",
)  # fmt: skip
COMMIT = subprocess.run(
    ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False
).stdout.strip()


def build(name: str, **arguments: Any) -> Proposer:
    """The proposer that ``strategy=name`` has, with the settings of its yaml."""
    with initialize_config_module("lwdc.conf", version_base="1.3"):
        without = name.endswith("_without_gates")
        strategy = name.removesuffix("_without_gates")
        config = compose("config", [f"strategy={strategy}", *(["strategy.proposer.rate=0"] if without else [])])
    found: Proposer = instantiate(config.strategy.proposer)(**arguments)
    return found


def search(name: str, task: str, seed: int, known: dict[table.Code, dict[str, float]]) -> dict[str, Any]:
    """One search: what it asked for, with the score of the best so far after every evaluation."""
    score, budget = TASKS[task]
    menu = table.menu(budget)
    reference = known[menu.original]["valid"]
    truth = {code: score(f["valid"] / reference, menu.share(code)) for code, f in known.items() if menu.keeps(code)}
    best = max(truth.values())
    proposer = build(name, menu=menu, score=score, reference=reference, seed=seed)
    proposer.tell(menu.decode(menu.original), reference, 1.0)
    regrets: list[float] = []
    ask, found = 0.0, -1.0
    while len(regrets) < EVALUATIONS:
        clock = time.process_time()
        asked = proposer.ask(min(BATCH, EVALUATIONS - len(regrets)))
        ask += time.process_time() - clock
        if not asked:
            break
        for architecture in asked:
            code = menu.encode(architecture)
            found = max(found, truth[code])
            regrets.append(best - found)
            proposer.tell(architecture, known[code]["valid"], menu.share(code))
    test = known[proposer.history.best()[0].code]["test"]
    return {
        "proposer": name, "task": task, "seed": seed, "evaluations": len(regrets), "regrets": regrets,
        "test": test, "cpu_seconds_asking": round(ask, 2), "commit": COMMIT, "torch": torch.__version__,
    }  # fmt: skip


def summary(records: list[dict[str, Any]]) -> str:
    """Markdown: a table a task."""
    lines = []
    for task in dict.fromkeys(r["task"] for r in records):
        mine = [r for r in records if r["task"] == task]
        lines += [f"### {task}", "", "| proposer | " + " | ".join(f"after {n}" for n in SHOWN)]
        lines[-1] += " | against evolution, over the search | at its end | CPU s of asking | test accuracy | seeds |"
        lines.append("|---" * (len(SHOWN) + 6) + "|")
        names = sorted({r["proposer"] for r in mine}, key=PROPOSERS.index)
        for name in names:
            runs = sorted((r for r in mine if r["proposer"] == name), key=lambda r: r["seed"])
            cells = []
            for count in SHOWN:
                found = [r["regrets"][min(count, len(r["regrets"])) - 1] for r in runs]
                spread = statistics.stdev(found) if len(found) > 1 else 0.0
                cells.append(f"{100 * statistics.mean(found):.2f} ± {100 * spread:.2f}")
            seconds = statistics.mean(r["cpu_seconds_asking"] for r in runs)
            test = statistics.mean(r["test"] for r in runs)
            cells += [against(runs, mine, lambda r: statistics.mean(r["regrets"]))]
            cells += [against(runs, mine, lambda r: r["regrets"][-1])]
            lines.append(f"| {name} | {' | '.join(cells)} | {seconds:.1f} | {test:.1%} | {len(runs)} |")
        lines.append("")
    return "\n".join(lines)


def against(runs: list[Record], all_runs: list[Record], figure: Callable[[Record], float]) -> str:
    """How often a figure of regret is smaller than, equal to and larger than evolution's with the same seed."""
    theirs = {r["seed"]: figure(r) for r in all_runs if r["proposer"] == "evolution"}
    pairs = [(figure(r), theirs[r["seed"]]) for r in runs if r["seed"] in theirs]
    if not pairs or runs[0]["proposer"] == "evolution":
        return "-"
    counts = [sum(a < b for a, b in pairs), sum(a == b for a, b in pairs), sum(a > b for a, b in pairs)]
    p = wilcoxon(*zip(*pairs, strict=True)).pvalue if len(pairs) > 4 and counts[1] < len(pairs) else float("nan")
    return f"{counts[0]} better, {counts[1]} equal, {counts[2]} worse (p={p:.2g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proposers", nargs="*", default=list(PROPOSERS), choices=PROPOSERS)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--out", type=Path, default=HERE / "regret.jsonl")
    parser.add_argument("--summary", action="store_true")
    options = parser.parse_args()
    records = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    if options.summary:
        print(summary(records))
        return
    torch.set_num_threads(1)
    known = table.read(HERE / "table.csv")
    done = {(r["proposer"], r["task"], r["seed"]) for r in records}
    for seed in range(options.first, options.first + options.seeds):
        for task in options.tasks:
            for name in options.proposers:
                if (name, task, seed) in done:
                    continue
                record = search(name, task, seed, known)
                with options.out.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                print(f"{name} {task} {seed}: regret {100 * record['regrets'][-1]:.2f}", flush=True)


if __name__ == "__main__":
    main()

"""How long a latent takes to train for 60 decisions with eight candidates, and what it then gives back.

    python experiments/proposers/training.py [--repeats 3]      # training.json

One thread. 600 architectures without and 100 with an accuracy, which is random: it is told as any other. Processor
seconds of the autoencoder's training alone, for the positional latent and a flat one of 32 numbers, and of a whole
round (the first question after the random ones: training, descents, ranking).
"""

import argparse
import itertools
import json
import random
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from lwdc.costs import Params, tabulate
from lwdc.files import write_json
from lwdc.pipeline.measures import environment
from lwdc.proposers import Latent, Menu
from lwdc.proposers.autoencoder import train, untrained
from lwdc.proposers.history import Trial
from lwdc.space import SearchSpace, make_plan
from lwdc.surgery import wrap

DECISIONS, CHANNELS, STEPS, LABELLED, UNLABELLED = 60, 16, 300, 100, 600
CANDIDATES: list[dict[str, Any]] = [
    {"op": "original"}, {"op": "grouped", "groups": 2}, {"op": "grouped", "groups": 4},
    {"op": "low_rank", "ratio": 0.5}, {"op": "low_rank", "ratio": 0.25}, {"op": "separable"},
    {"op": "pointwise"}, {"op": "factorised", "ratio": 0.5},
]  # fmt: skip


def menu() -> Menu:
    layers = [nn.Conv2d(3, CHANNELS, 3, padding=1)]
    layers += [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(DECISIONS)]
    network = nn.Sequential(*layers)
    plan = make_plan(network, SearchSpace(CANDIDATES), (3, 4, 4))
    table = tabulate(wrap(network, plan=plan), Params())
    return Menu.of(plan, [table], [None])


def trained(space: Menu, flat: int | None, seed: int) -> dict[str, float]:
    """One training: its processor seconds, and the share of the decisions of unseen architectures given back."""
    rng = random.Random(seed)
    drawn = [code for code in (space.draw(rng) for _ in range(UNLABELLED + LABELLED + 200)) if code is not None]
    known = [Trial(code, accuracy := rng.random(), space.share(code), accuracy) for code in drawn[:LABELLED]]
    model = untrained(space, seed, flat=flat)
    clock = time.process_time()
    train(model, known, drawn[LABELLED : LABELLED + UNLABELLED], seed=seed, steps=STEPS)
    seconds = time.process_time() - clock
    unseen = drawn[LABELLED + UNLABELLED :]
    with torch.no_grad():
        back = model.decode(model.encode(unseen))
    pairs = list(itertools.chain.from_iterable(zip(a, b, strict=True) for a, b in zip(unseen, back, strict=True)))
    return {"seconds": seconds, "given_back": sum(a == b for a, b in pairs) / len(pairs)}


def first_round(space: Menu, seed: int) -> float:
    """Processor seconds of the first question that needs a latent."""
    search = Latent(space, seed=seed, begin=LABELLED)
    rng = random.Random(seed)
    for architecture in search.ask(LABELLED):
        search.tell(architecture, rng.random(), space.share(space.encode(architecture)))
    clock = time.process_time()
    search.ask(1)
    return time.process_time() - clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("training.json"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    space = menu()
    assert space.counts == (len(CANDIDATES),) * DECISIONS
    found: dict[str, Any] = {"environment": environment(torch.device("cpu"))}
    for name, flat in (("positional", None), ("flat 32", 32)):
        runs = [trained(space, flat, seed) for seed in range(asked.repeats)]
        found[name] = {key: [run[key] for run in runs] for key in runs[0]}
    found["round"] = {"seconds": [first_round(space, seed) for seed in range(asked.repeats)]}
    write_json(asked.out, found)
    for name in ("positional", "flat 32", "round"):
        print(name, json.dumps({key: round(median(values), 3) for key, values in found[name].items()}))


if __name__ == "__main__":
    main()

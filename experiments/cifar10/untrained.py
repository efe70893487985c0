"""What compression costs before any training: spaces at several budgets, chosen by what operators keep.

    python experiments/cifar10/untrained.py --data DATA --weights FILE [--out untrained.json]

For each space the architecture that keeps the largest share of the trained layers' energy within the budget,
weights inherited, validation accuracy: with the batch norms as they were, with these re-estimated, and after the refit
to the original on 512 training images. No step is trained and no test image is read.
"""

import argparse
import json
import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from setting import INPUT_SIZE, MEAN, STD

from lwdc.backbones import Backbone, create
from lwdc.candidates import label
from lwdc.costs import Macs, choose, tabulate
from lwdc.data import Cifar10
from lwdc.files import write_json
from lwdc.pipeline.measures import environment
from lwdc.refitting import refit
from lwdc.space import LEAN, SearchSpace
from lwdc.surgery import begin_with_prior, discretise, wrap
from lwdc.training import accuracy, recalibrate

ORIGINAL, SEPARABLE, POINTWISE = {"op": "original"}, {"op": "separable"}, {"op": "pointwise"}


def _of(op: str, option: str, *values: float) -> list[dict[str, Any]]:
    return [{"op": op, option: value} for value in values]


SUMS = [{"op": "sum", "of": [SEPARABLE, part]} for part in _of("factorised", "ratio", 0.125, 0.25, 0.5)]
SPACES: dict[str, list[dict[str, Any]]] = {
    "grouped 2, 4, 8 (the default before)": [ORIGINAL, *_of("grouped", "groups", 2, 4, 8), SEPARABLE, POINTWISE],
    "low rank 3/4, 1/2, 1/4": [ORIGINAL, *_of("low_rank", "ratio", 0.75, 0.5, 0.25), SEPARABLE, POINTWISE],
    "factorised 1/2, 1/4": [ORIGINAL, *_of("factorised", "ratio", 0.5, 0.25), SEPARABLE, POINTWISE],
    "factorised 3/4 to 1/8": [ORIGINAL, *_of("factorised", "ratio", 0.75, 0.5, 0.25, 0.125), SEPARABLE, POINTWISE],
    "tucker 3/4, 1/2, 1/4": [ORIGINAL, *_of("tucker", "ratio", 0.75, 0.5, 0.25), SEPARABLE, POINTWISE],
    "lean without factorised 1/8 (the default before)": [c for c in LEAN if c != {"op": "factorised", "ratio": 0.125}],
    "lean": list(LEAN),
    "lean, and factorised 3/8, 5/8, 7/8": [*LEAN, *_of("factorised", "ratio", 0.375, 0.625, 0.875)],
    "branched: lean, and separable + factorised 1/8, 1/4, 1/2": [*LEAN, *SUMS],
}
POINTS = (1.5, 2.1, 2.6, 4.0, 8.0)  # times fewer MACs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--images", type=int, default=2000, help="of the validation split, at most")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("untrained.json"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = Cifar10(asked.data, mean=MEAN, std=STD)
    data.prepare(torch.device("cpu"))
    model, _ = create(Backbone("cifar_resnet20", 10, 3), weights=str(asked.weights))
    valid = list(islice(data.batches("valid", 250), asked.images // 250))
    train = list(islice(data.train(seed=0, epoch=0, batch_size=128), 20))
    rows = []
    for name, candidates in SPACES.items():
        supernet = wrap(model, SearchSpace(candidates), input_size=INPUT_SIZE)
        begin_with_prior(supernet, 1.0)
        table = tabulate(supernet, Macs())
        for point in POINTS:
            architecture = choose(supernet, table, int(table.total / point))
            network, _ = discretise(supernet, architecture)
            stale = accuracy(network, valid)
            recalibrate(network, train, len(train))
            inherited = accuracy(network, valid)
            clock = time.perf_counter()
            refit(network, model, architecture, torch.cat([images for images, _ in train])[:512])
            seconds = time.perf_counter() - clock
            recalibrate(network, train, len(train))
            taken = Counter(label(candidate) for candidate in architecture.choices.values())
            row = {
                "space": name,
                "point": point,
                "macs": table.of(architecture) / table.total,
                "norms_as_they_were": stale,
                "inherited": inherited,
                "refitted": accuracy(network, valid),
                "refit_seconds": seconds,
                "operators": dict(taken),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    write_json(asked.out, {"images": asked.images, "environment": environment(torch.device("cpu")), "rows": rows})


if __name__ == "__main__":
    main()

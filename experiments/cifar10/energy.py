"""What operators keep of trained layers for what they cost, and whether permuted channels make groups worth it.

    python experiments/cifar10/energy.py --weights FILE [--out energy.json]

Of every 3x3 convolution of ResNet-20 but the stem: the share of its multiply-accumulates that an operator takes, and
the share of the kernel's energy that stays when the operator inherits it (1 - error²). Groups also after the best
permutations found of the channels on both sides, which are free only where the neighbours can take them.
"""

import argparse
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from setting import INPUT_SIZE

from lwdc.backbones import Backbone, create
from lwdc.candidates import label
from lwdc.costs import Macs, tabulate
from lwdc.files import write_json
from lwdc.pipeline.measures import environment
from lwdc.selection import selection_ops
from lwdc.space import SearchSpace
from lwdc.surgery import wrap

SEPARABLE = {"op": "separable"}
FACTORISED = [{"op": "factorised", "ratio": eighths / 8} for eighths in range(1, 8)]
CANDIDATES: list[dict[str, Any]] = [
    {"op": "original"},
    *FACTORISED,
    *({"op": "low_rank", "ratio": ratio} for ratio in (0.125, 0.25, 0.5)),
    *({"op": "grouped", "groups": groups} for groups in (2, 4, 8)),
    SEPARABLE,
    {"op": "pointwise"},
    *({"op": "sum", "of": [SEPARABLE, FACTORISED[eighths - 1]]} for eighths in (1, 2, 4)),
]
STARTS = 20  # of the search for permutations


def permuted(kernel: torch.Tensor, groups: int, rng: np.random.Generator) -> float:
    """The share of the energy of ``(out, in, k, k)`` in the blocks of ``groups``, channels permuted to keep the most.

    From random starts in turns: outputs assigned to groups for given inputs, then inputs, until nothing is gained. A
    local optimum, so a lower bound of the best.
    """
    energy = kernel.double().square().sum((2, 3)).numpy()
    found = 0.0
    for _ in range(STARTS):
        inputs, kept = rng.permutation(np.arange(energy.shape[1]) % groups), -1.0
        while True:
            outputs = _assigned(energy, inputs, groups)
            inputs = _assigned(energy.T, outputs, groups)
            now = float(energy[outputs[:, None] == inputs].sum())
            if now <= kept * (1 + 1e-12):
                break
            kept = now
        found = max(found, kept)
    return found / float(energy.sum())


def _assigned(energy: np.ndarray, others: np.ndarray, groups: int) -> np.ndarray:
    """The group of each row, all of one size, such that the rows keep the most energy with the columns' groups."""
    kept = np.stack([energy[:, others == group].sum(1) for group in range(groups)], axis=1)
    places = np.arange(len(energy)) % groups
    _, column = linear_sum_assignment(kept[:, places], maximize=True)
    return places[column]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("energy.json"))
    asked = parser.parse_args()
    model, _ = create(Backbone("cifar_resnet20", 10, 3), weights=str(asked.weights))
    layers = dict(model.named_modules())
    supernet = wrap(model, SearchSpace(CANDIDATES), input_size=INPUT_SIZE)
    table, rng = tabulate(supernet, Macs()), np.random.default_rng(0)
    costs: dict[str, list[float]] = {}
    keeps: dict[str, list[float]] = {}
    for site, op in selection_ops(supernet).items():
        for candidate in op.candidates:
            name, cost = label(candidate), table.sites[site][label(candidate)] / table.original[site]
            costs.setdefault(name, []).append(cost)
            keeps.setdefault(name, []).append(1 - op.errors[name] ** 2)
            if candidate["op"] == "grouped":
                name += ", permuted"
                costs.setdefault(name, []).append(cost)
                keeps.setdefault(name, []).append(permuted(layers[site].weight.detach(), candidate["groups"], rng))
    rows = [
        {"operator": name, "layers": len(costs[name]), "macs": mean(costs[name]), "energy": mean(keeps[name]),
         "least": min(keeps[name]), "most": max(keeps[name])}
        for name in sorted(costs, key=lambda name: mean(costs[name]))
    ]  # fmt: skip
    write_json(asked.out, {"environment": environment(torch.device("cpu")), "rows": rows})
    for row in rows:
        print(f"{row['operator']:34} {row['macs']:6.1%} {row['energy']:6.1%} ({row['least']:.1%} to {row['most']:.1%})")


if __name__ == "__main__":
    main()

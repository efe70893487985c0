"""What tests of proposers share: a menu of a small network, and an artificial truth about every architecture."""

import functools
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from lwdc.costs import Macs, Params, tabulate
from lwdc.proposers import Code, Menu
from lwdc.space import SearchSpace, make_plan
from lwdc.surgery import wrap

CANDIDATES: list[dict[str, Any]] = [
    {"op": "original"},
    {"op": "grouped", "groups": 2},
    {"op": "grouped", "groups": 4},
    {"op": "separable"},
    {"op": "pointwise"},
]


@functools.cache
def _parts(sites: int, tie: tuple[str, ...], branches: int) -> tuple[Any, Any]:
    layers = [nn.Conv2d(3, 8, 3, padding=1)] + [nn.Conv2d(8, 8, 3, padding=1) for _ in range(sites)]
    model, size = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 16, 2)), (3, 4, 4)
    plan = make_plan(model, SearchSpace(CANDIDATES, tie=tie, branches=branches), size)
    supernet = wrap(model, plan=plan)
    return plan, (tabulate(supernet, Macs()), tabulate(supernet, Params()))


@pytest.fixture
def menu() -> Callable[..., Menu]:
    """``menu(sites=8, budget=0.5)``: that many layers with five candidates each, within a share of the MACs.

    With ``branches=2`` there are the sums of two of them, too.
    """

    def make(
        sites: int = 8, budget: float | None = 0.5, tie: tuple[str, ...] = (), branches: int = 1
    ) -> Menu:  # fmt: skip
        plan, (macs, _) = _parts(sites, tie, branches)
        return Menu.of(plan, [macs], [None if budget is None else int(budget * macs.total)])

    return make


@pytest.fixture
def truth() -> Callable[[Menu, int], Callable[[Code], float]]:
    """``truth(menu, seed)(code)``: an accuracy in [0, 1] with a loss for every operator and for pairs of neighbours."""

    def make(menu: Menu, seed: int = 0) -> Callable[[Code], float]:
        rng = random.Random(seed)
        losses = [[0.0, *(rng.uniform(0, 1) for _ in range(count - 1))] for count in menu.counts]
        pairs = [[[rng.uniform(-0.3, 0.3) for _ in range(8)] for _ in range(8)] for _ in menu.counts]

        def accuracy(code: Code) -> float:
            loss = sum(losses[i][k] for i, k in enumerate(code))
            loss += sum(pairs[i][a][b] for i, (a, b) in enumerate(itertools.pairwise(code)) if a and b)
            return min(max(0.95 - 0.5 * loss / len(code), 0.0), 1.0)

        return accuracy

    return make

"""Settling: the choice made again until costs that a table only predicts keep their budgets as measured."""

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from lwdc.architecture import Architecture
from lwdc.costs import MeasuredCostModel
from lwdc.errors import CostError
from lwdc.pipeline.prepare import Prepared
from lwdc.strategies import Chooser
from lwdc.surgery import discretise

_ATTEMPTS = 5


class Settled(NamedTuple):
    """What was settled on."""

    architecture: Architecture
    measured: list[float | None]  # each cost of it as measured, in its unit; None for counted ones
    excess: float  # by how much of it the budget is not kept as measured, that which is missed most
    missed: str | None  # a warning of that


def settle(prepared: Prepared, chooser: Chooser, baseline: nn.Module, note: Callable[[str, str], None]) -> Settled:
    """The choice, with its costs as measured.

    If the network takes more than a budget allows, that bound is tightened by as much and the choice made again, a few
    times. What comes nearest is kept where none of them holds, with a warning.
    """
    bounds = list(prepared.bounds)
    best: tuple[float, Architecture, list[float | None]] | None = None
    kept = list(bounds)  # of the best
    for _ in range(_ATTEMPTS):
        tried = list(bounds)
        try:
            architecture = chooser.choice(tried)
        except CostError:  # nothing is left below the bound: what was found before stands
            break
        measured = _measured(prepared, chooser, baseline, architecture)
        excess = [0.0] * len(bounds)
        for i, (table, asked, found) in enumerate(zip(prepared.tables, prepared.bounds, measured, strict=True)):
            if found is None:
                continue
            text = f"{table.name} {table.show(table.of(architecture))} predicted, {table.show(found)} measured"
            if asked is not None and found > asked:
                text += f", above the budget of {table.show(asked)}"
                excess[i] = found / asked - 1
                bounds[i] = math.floor(table.of(architecture) * asked / found)
            note(text, "info")
        shown = [None if m is None else t.in_unit(m) for m, t in zip(measured, prepared.tables, strict=True)]
        if best is None or max(excess) < best[0]:
            best, kept = (max(excess), architecture, shown), tried
        if not any(excess):
            break
    assert best is not None  # the first bounds are those that `prepare` has tried
    chooser.choice(kept)  # leaves a supernet whose gates depend on the budget where the best was found
    warning = None
    if best[0]:
        warning = f"no architecture tried keeps the budget as measured: the nearest one is {best[0]:.1%} above it"
        note(warning, "warning")
    return Settled(best[1], best[2], best[0], warning)


def _measured(
    prepared: Prepared, chooser: Chooser, baseline: nn.Module, architecture: Architecture
) -> list[int | None]:
    """In whole numbers of the tables."""
    size = prepared.settings.data.input_size
    network, _ = discretise(chooser.supernet, architecture)
    found: list[int | None] = []
    for cost, table in zip(prepared.settings.cost.all, prepared.tables, strict=True):
        if isinstance(cost.model, MeasuredCostModel):
            found.append(cost.model.measure(network, baseline, size, table))
        else:
            found.append(None)
    return found

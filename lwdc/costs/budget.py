"""Budgets: what the user may write, and the choice that keeps it exactly."""

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import nn

from lwdc.architecture import Architecture
from lwdc.costs.table import CostTable, check_table
from lwdc.costs.units import example, in_unit
from lwdc.errors import CostError
from lwdc.selection import supernet_ops


def parse_budget(budget: float | str, table: CostTable) -> int:
    """The bound in the table's unit: from a share (``0.5``, ``50%``) or an amount (``40MMAC``, ``300kparams``).

    Raises ``CostError`` if it is malformed, of another unit, or below what any architecture reaches.
    """
    text = str(budget).strip()
    number, is_share = read_budget(text, table.unit, example(table.total / table.per_unit / 2, table.unit))
    bound = math.floor(number * (table.total if is_share else table.per_unit))
    if bound > table.total:
        raise CostError(
            f"budget {text!r} ({amount(bound, table)}) is more than the original network costs, "
            f"{amount(table.total, table)}: there is nothing to compress."
        )
    if bound < table.smallest:
        raise CostError(
            f"budget {text!r} ({amount(bound, table)}) cannot be reached: the smallest {table.name} of this space is "
            f"{table.show(table.smallest)} ({table.smallest / table.total:.3f} of the original). "
            "Raise it, or add cheaper candidates."
        )
    return bound


def read_budget(budget: float | str, unit: str, like: str | None = None) -> tuple[Fraction, bool]:
    """A share of the original, and True; or an amount in ``unit``, and False. Errors name the amount ``like``.

    Raises ``CostError`` if it is malformed or of another unit, which needs no table to be known.
    """
    text, like = str(budget).strip(), like or example(_USUAL.get(unit, 5), unit)
    match = re.fullmatch(r"([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*(%|[^\W\d]\S*|)", text)
    if match is None:
        raise CostError(f"budget {text!r} cannot be read; write a share like 0.5 or an amount like {like}.")
    number, suffix = Fraction(match[1]), match[2]
    if suffix in ("", "%"):
        share = number / 100 if suffix == "%" else number
        if not 0 < share <= 1:
            raise CostError(
                f"budget {text!r} is a share of the original and must lie in (0, 1]; "
                f"an amount needs its unit, like {like}."
            )
        return share, True
    scale = in_unit(suffix, unit)
    if scale is None:
        raise CostError(
            f"budget {text!r} has the unit {suffix!r}, the cost is counted in {unit}; "
            f"write a share like 0.5 or an amount like {like}."
        )
    return number * scale, False


_USUAL = {"MAC": 40e6, "params": 300e3, "B": 2e6}  # an amount as it might be; of other units 5


def amount(cost: int, table: CostTable) -> str:
    """A cost with its unit."""
    return f"{table.show(cost)} {table.unit}" if table.per_unit == 1 else table.show(cost)


def choose(supernet: nn.Module, table: CostTable, bound: int | None = None) -> Architecture:
    """The architecture with the largest sum of log-probabilities whose cost is at most ``bound``.

    Exact: a multiple-choice knapsack, solved as a mixed-integer program. Sites that share a gate choose once. Raises
    ``CostError`` if no architecture keeps the bound, and for a bound that is no whole number of the table's, as
    ``parse_budget`` gives it.
    """
    if bound is not None and (isinstance(bound, bool) or not hasattr(bound, "__index__")):
        given = f"int({bound!r})" if isinstance(bound, float) and bound > 1 else f"lwdc.parse_budget({bound!r}, table)"
        raise CostError(f"bound is a whole number of the table's unit: give {given}; found {bound!r}.")
    return choose_within(supernet, [] if bound is None else [(table, bound)])


def choose_within(supernet: nn.Module, bounds: Sequence[tuple[CostTable, int]]) -> Architecture:
    """The same under any number of bounds at once, each on a cost of its own."""
    ops = supernet_ops(supernet)
    for table, _ in bounds:
        check_table(table, ops)
    first: dict[Any, str] = {}
    groups = {name: first.setdefault(op.gate, name) for name, op in ops.items()}
    scores = {group: ops[group].gate.scores().double().cpu().numpy() for group in dict.fromkeys(groups.values())}
    if strange := [group for group, values in scores.items() if not np.isfinite(values).all()]:
        raise CostError(f"the gate at {strange[0]!r} has logits that are not finite: nothing can be chosen by it.")
    picked = best_within(scores, bounds)
    if picked is None:
        asked = ", ".join(f"{table.name} {amount(bound, table)}" for table, bound in bounds)
        raise CostError(
            f"no architecture of this space keeps {asked}{' together' if len(bounds) > 1 else ''}. "
            "Raise a budget, or add cheaper candidates."
        )
    return Architecture({name: op.candidates[picked[groups[name]]] for name, op in ops.items()})


def best_within(scores: dict[str, Any], bounds: Sequence[tuple[CostTable, int]]) -> dict[str, int] | None:
    """By gate the candidate, so that the sum of ``scores`` (one array a gate) is largest within the bounds.

    None if nothing keeps them. Gates are named by the first site of each, as in ``CostTable.group_costs``.
    """
    if not bounds:
        return {group: int(s.argmax()) for group, s in scores.items()}
    sizes = [len(scores[group]) for group in scores]
    starts = np.cumsum([0, *sizes[:-1]])
    one_each = np.zeros((len(sizes), sum(sizes)))
    for row, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        one_each[row, start : start + size] = 1
    constraints = [LinearConstraint(one_each, 1, 1)]
    allowed = np.ones(sum(sizes))
    held = []  # costs by position, and what they may sum to
    for table, bound in bounds:
        costs = table.group_costs()
        flat = np.concatenate([np.array(costs[group], dtype=np.int64) for group in scores])
        if table.peak:
            allowed[flat > bound] = 0
            if table.rest > bound:
                return None
            continue
        # In units of what all differences between a gate's costs are multiples of: the solver, whose tolerance is a
        # share of the bound, then seldom takes what exceeds it by less.
        cheapest = np.minimum.reduceat(flat, starts)
        flat = flat - np.repeat(cheapest, sizes)
        unit = max(int(np.gcd.reduce(flat)), 1)
        flat, room = flat // unit, (bound - table.rest - int(cheapest.sum())) // unit
        if room < 0:
            return None
        held.append((flat, room))
        scale = max(int(flat.max()), 1)
        constraints.append(LinearConstraint(flat[None] / scale, -np.inf, room / scale))
    while True:
        solution = milp(
            -np.concatenate([scores[group] for group in scores]),
            integrality=np.ones(sum(sizes)),
            bounds=Bounds(0, allowed),
            constraints=constraints,
            options={"mip_rel_gap": 0.0},  # by default it stops at a ten-thousandth
        )
        if solution.x is None:
            return None
        chosen, taken, start = {}, np.zeros(sum(sizes)), 0
        for group, size in zip(scores, sizes, strict=True):
            chosen[group] = int(solution.x[start : start + size].argmax())
            taken[start + chosen[group]] = 1
            start += size
        if all(int(flat[taken == 1].sum()) <= capacity for flat, capacity in held):
            return chosen
        # The solver works with tolerances; whole numbers decide. What they refuse is ruled out, and it tries again.
        constraints.append(LinearConstraint(taken, -np.inf, len(sizes) - 1))

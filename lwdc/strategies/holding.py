"""Holding: logits shifted in proportion to costs, until what the gates expect keeps to bounds."""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from scipy.optimize import brentq
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lwdc.costs import CostTable, expected_cost
from lwdc.selection import selection_ops


class Hold(nn.Module):
    """What costs take off the logits of every gate of a supernet: each of them ``pressure`` times its share.

    ``shares`` are the bounds, of the original's costs, that ``hold`` keeps to. A cost is held from above, by a pressure
    from 0 on, or with ``exactly`` from both sides.
    """

    shares: Tensor
    pressure: Tensor

    def __init__(self, tables: Sequence[CostTable], *, exactly: bool) -> None:
        super().__init__()
        self.tables, self.exactly = tuple(tables), exactly
        # Buffers, so that copies and checkpoints carry them.
        self.register_buffer("shares", torch.ones(len(self.tables), dtype=torch.float64))
        self.register_buffer("pressure", torch.zeros(len(self.tables), dtype=torch.float64))
        self.lifted: Tensor | None = None  # the pressure as a function of the logits, while a step is under way

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "lifted": None}  # of a step: a copy begins between steps


def add_hold(supernet: nn.Module, tables: Sequence[CostTable], *, exactly: bool = False) -> Hold:
    """Let costs take from the logits of every gate, in place; at first they take nothing."""
    held = Hold(tables, exactly=exactly).to(next(supernet.parameters()).device)
    ops = selection_ops(supernet)
    by_table = [table.group_costs() for table in tables]
    for group in by_table[0]:
        shares = [torch.tensor(costs[group]).double() / t.total for costs, t in zip(by_table, tables, strict=True)]
        parametrize.register_parametrization(ops[group].gate, "logits", _Pressed(held, torch.stack(shares)))
    return held


def hold_of(supernet: nn.Module) -> Hold | None:
    """The one that was added to a supernet, if any."""
    return next((module for module in supernet.modules() if isinstance(module, Hold)), None)


def hold(supernet: nn.Module, *, learning: bool = False) -> None:
    """Set the pressures, in place, to where the gates expect costs within their bounds, whatever their logits say.

    Logits that fall in proportion to costs give, of all mixtures with these (summed) costs, the one nearest to the one
    before, in relative entropy. Gates whose expectation is one-hot come as near as one more or one less change of an
    operator brings them. While gates are uniform nothing can be held, and pressures stay. With ``learning``, and until
    it is called again, the gradients of the logits keep to what leaves the costs that are held as they are. Ours.
    """
    held = hold_of(supernet)
    assert held is not None
    held.lifted = None
    with torch.no_grad():
        for _ in range(_SWEEPS if len(held.tables) > 1 else 1):
            before = held.pressure.clone()
            for which in range(len(held.tables)):
                _hold_one(supernet, held, which)
            if torch.allclose(held.pressure, before, rtol=1e-3, atol=1e-3):
                break
    if learning:
        held.lifted = _lifted(supernet, held)


def _hold_one(supernet: nn.Module, held: Hold, which: int) -> None:
    """Set one cost's pressure, in place, where those of the others stand."""
    table, share = held.tables[which], float(held.shares[which])

    def excess(pressure: float) -> float:
        held.pressure[which] = pressure
        return float(expected_cost(supernet, table)) - share

    least = -_MOST if held.exactly else 0.0
    held.pressure[which] = _held_at(excess, float(held.pressure[which]), least)


def _held_at(excess: Callable[[float], float], guess: float, least: float) -> float:
    """Where a falling function is zero, from near ``guess``; as near as it comes from ``least`` on.

    ``guess`` if it is constant.
    """
    here = excess(guess)
    if abs(here) < _NEAR or (here < 0 and guess <= least):
        return guess
    last, there, width = guess, here, 1.0
    while width <= _MOST:
        beyond = max(guess + math.copysign(width, here), least)
        there = excess(beyond)
        if abs(there) < _NEAR:
            return beyond
        if there * here < 0:
            return float(brentq(excess, last, beyond, xtol=1e-3, rtol=1e-6))
        if beyond == least:
            return least if there != here else guess
        last, width = beyond, 4 * width
    return last if there != here else guess


def _lifted(supernet: nn.Module, held: Hold) -> Tensor | None:
    """The pressures as functions of the logits, by the implicit function theorem; None where none is one."""
    active = list(range(len(held.tables))) if held.exactly else held.pressure.nonzero().flatten().tolist()
    originals = [p for name, p in supernet.named_parameters() if name.endswith(_ORIGINAL)]
    with torch.enable_grad():
        held.lifted = held.pressure.detach().clone().requires_grad_()
        inputs = [held.lifted, *originals]
        found = {k: torch.autograd.grad(expected_cost(supernet, held.tables[k]), inputs) for k in active}
    # Where the pressure changes nothing there is no gradient to mend.
    active = [k for k in active if float(found[k][0][k]) < -_FLAT]
    if not active:
        return None
    inverse, failed = torch.linalg.inv_ex(torch.stack([found[k][0][active] for k in active]))
    if bool(failed):
        return None
    slopes = []
    for i, original in enumerate(originals, start=1):
        of_costs = torch.stack([found[k][i] for k in active])
        slopes.append(-torch.tensordot(inverse.to(original), of_costs, dims=1))
    return cast(Tensor, _Implicit.apply(held.pressure, active, slopes, *originals))


class _Implicit(torch.autograd.Function):
    """The pressures that hold, with their slopes in the logits. Unlike a graph it bears several backward passes."""

    @staticmethod
    def forward(ctx: Any, pressure: Tensor, active: list[int], slopes: list[Tensor], *originals: Tensor) -> Tensor:
        ctx.active, ctx.slopes = active, slopes
        return pressure.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        found = gradient[ctx.active]
        return None, None, None, *(torch.tensordot(found.to(slope), slope, dims=1) for slope in ctx.slopes)


_NEAR = 1e-4  # of the original's cost
_MOST = 2.0**20  # of a pressure: what is not reached by it, is not reached
_SWEEPS = 100  # over several costs, each of which moves the others
_ORIGINAL = "parametrizations.logits.original"
_FLAT = 1e-6


class _Pressed(nn.Module):
    """Logits ``(n,)`` less what costs take of them, of whose ``shares`` there are ``(costs, n)``."""

    shares: Tensor

    def __init__(self, held: Hold, shares: Tensor) -> None:
        super().__init__()
        self.held = held
        self.register_buffer("shares", shares.to(held.pressure.device), persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        pressure = self.held.pressure if self.held.lifted is None else self.held.lifted
        return logits - (pressure[:, None] * self.shares).sum(0).to(logits)  # no product: autocast would round it

"""The dial: gates whose logits are functions of the budget, so that one supernet holds the choices for many."""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lwdc.costs import CostTable, expected_cost
from lwdc.selection import selection_ops
from lwdc.strategies.falling import held_at


class Dial(nn.Module):
    """A position in [0, 1] on the logarithmic scale between two budgets, which every gate of a supernet reads.

    ``largest`` and ``smallest`` are shares of the original's cost. The gates' logits are given at ``knots`` positions,
    evenly spaced, and linear between them; from each the ``pressure`` takes its candidate's share of the cost, so
    many times, which is how ``hold`` keeps the budget.
    """

    position: Tensor
    pressure: Tensor

    def __init__(self, largest: float, smallest: float, knots: int) -> None:
        super().__init__()
        assert 0 < smallest < largest and knots > 1
        self.largest, self.smallest, self.knots = largest, smallest, knots
        # Buffers, so that copies and checkpoints carry them.
        self.register_buffer("position", torch.tensor(0.5))
        self.register_buffer("pressure", torch.tensor(0.0, dtype=torch.float64))
        self.lifted: Tensor | None = None  # the pressure as a function of the logits, while a step is under way

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "lifted": None}  # of a step: a copy begins between steps

    @property
    def share(self) -> float:
        """The budget that the position stands for, as a share of the original's cost."""
        return self.largest * (self.smallest / self.largest) ** float(self.position)

    def turn(self, position: float) -> None:
        """Set the position, in place. The pressure stays, until ``hold``."""
        self.position.fill_(position)

    def turn_to(self, share: float) -> None:
        """Set the position, in place, to where ``share`` lies, or to the nearer end of the scale."""
        place = math.log(share / self.largest) / math.log(self.smallest / self.largest)
        self.turn(min(max(place, 0.0), 1.0))

    def weights(self) -> Tensor:
        """What each knot counts at the position: ``(knots,)``, summing to 1."""
        place = self.position * (self.knots - 1)
        return (1 - (place - torch.arange(self.knots, device=place.device)).abs()).clamp_min(0)


def add_dial(supernet: nn.Module, table: CostTable, largest: float, smallest: float, knots: int) -> Dial:
    """Make the logits of every gate a function of a dial's position, in place; all begin as they are, at any position.

    With 2 knots it is affine in the logarithm of the budget. Ours.
    """
    dial = Dial(largest, smallest, knots).to(next(supernet.parameters()).device)
    ops = selection_ops(supernet)
    for group, costs in table.group_costs().items():
        shares = torch.tensor(costs, dtype=torch.float64) / table.total
        parametrize.register_parametrization(ops[group].gate, "logits", _Curve(dial, shares))
    return dial


def hold(supernet: nn.Module, table: CostTable, *, learning: bool = False) -> None:
    """Set the dial's pressure, in place, to where the gates expect the cost of its budget, whatever their logits say.

    Logits that fall in proportion to costs give, of all mixtures with that (summed) cost, the one nearest to the one
    before, in relative entropy. Gates whose expectation is one-hot come as near as one more or one less change of an
    operator brings them. While gates are uniform nothing can be held, and the pressure stays. With ``learning``,
    and until it is called again, the gradients of the logits keep to what leaves the expected cost as it is. Ours.
    """
    dial = dial_of(supernet)
    dial.lifted = None

    def excess(pressure: float) -> float:
        dial.pressure.fill_(pressure)
        return float(expected_cost(supernet, table)) - dial.share

    with torch.no_grad():
        dial.pressure.fill_(held_at(excess, float(dial.pressure)))
    if learning:
        curves = [curve for name, curve in supernet.named_parameters() if name.endswith(_CURVE)]
        with torch.enable_grad():
            dial.lifted = dial.pressure.detach().clone().requires_grad_()
            slope, *slopes = torch.autograd.grad(expected_cost(supernet, table), [dial.lifted, *curves])
        if float(slope) < -_FLAT:
            dial.lifted = cast(Tensor, _Implicit.apply(dial.pressure, [-s / slope for s in slopes], *curves))
        else:
            dial.lifted = None


class _Implicit(torch.autograd.Function):
    """The pressure that holds, with its slope in the logits. Unlike a graph it bears several backward passes."""

    @staticmethod
    def forward(ctx: Any, pressure: Tensor, slopes: list[Tensor], *curves: Tensor) -> Tensor:
        ctx.slopes = slopes
        return pressure.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return None, None, *(gradient * slope for slope in ctx.slopes)


_CURVE = "parametrizations.logits.original"
_FLAT = 1e-6  # where the pressure changes nothing there is no gradient to mend


def dial_of(supernet: nn.Module) -> Dial:
    """The dial that was added to a supernet."""
    return next(module for module in supernet.modules() if isinstance(module, Dial))


class _Curve(nn.Module):
    """Logits ``(n,)`` at the dial's position from those at its knots, ``(knots, n)``, under its pressure."""

    shares: Tensor

    def __init__(self, dial: Dial, shares: Tensor) -> None:
        super().__init__()
        self.dial = dial
        self.register_buffer("shares", shares.to(dial.position.device), persistent=False)

    def forward(self, at_knots: Tensor) -> Tensor:
        weights = self.dial.weights().to(at_knots.dtype)
        logits = (weights[:, None] * at_knots).sum(0)  # no product: autocast would round it
        pressure = self.dial.pressure if self.dial.lifted is None else self.dial.lifted
        return logits - pressure.to(logits) * self.shares.to(logits)

    def right_inverse(self, logits: Tensor) -> Tensor:
        return logits.repeat(self.dial.knots, 1)

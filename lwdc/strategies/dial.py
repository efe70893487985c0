"""The dial: gates whose logits are functions of the budget, so that one supernet holds the choices for many."""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lwdc.costs import CostTable, expected_cost
from lwdc.selection import gates, selection_ops


class Dial(nn.Module):
    """A position in [0, 1] on the logarithmic scale between two budgets, which every gate of a supernet reads.

    ``largest`` and ``smallest`` are shares of the original's cost. Like the gates' logits, the ``multipliers`` of the
    budgets are given at ``knots`` positions, evenly spaced, and linear between them.
    """

    position: Tensor
    multipliers: Tensor

    def __init__(self, largest: float, smallest: float, knots: int) -> None:
        super().__init__()
        assert 0 < smallest < largest and knots > 1
        self.largest, self.smallest, self.knots = largest, smallest, knots
        # Buffers, so that copies and checkpoints carry them.
        self.register_buffer("position", torch.tensor(0.5))
        self.register_buffer("multipliers", torch.zeros(knots))

    @property
    def share(self) -> float:
        """The budget that the position stands for, as a share of the original's cost."""
        return self.largest * (self.smallest / self.largest) ** float(self.position)

    @property
    def multiplier(self) -> float:
        """At the position."""
        return float((self.weights() * self.multipliers).sum())

    def turn(self, position: float) -> None:
        """Set the position, in place."""
        self.position.fill_(position)

    def turn_to(self, share: float) -> None:
        """Set the position, in place, to where ``share`` lies, or to the nearer end of the scale."""
        place = math.log(share / self.largest) / math.log(self.smallest / self.largest)
        self.turn(min(max(place, 0.0), 1.0))

    def weights(self) -> Tensor:
        """What each knot counts at the position: ``(knots,)``, summing to 1."""
        place = self.position * (self.knots - 1)
        return (1 - (place - torch.arange(self.knots, device=place.device)).abs()).clamp_min(0)


def add_dial(supernet: nn.Module, largest: float, smallest: float, knots: int) -> Dial:
    """Make the logits of every gate a function of a dial's position, in place; all begin as they are, at any position.

    With 2 knots it is affine in the logarithm of the budget. Ours.
    """
    dial = Dial(largest, smallest, knots).to(next(supernet.parameters()).device)
    for gate in list(gates(supernet)):
        parametrize.register_parametrization(gate, "logits", _Curve(dial))
    return dial


def tilt(supernet: nn.Module, table: CostTable) -> None:
    """Begin the logits at every knot of the dial with the expected cost of its budget, in place.

    Logits fall in proportion to costs, which of all mixtures with that (summed) cost gives the one nearest to the one
    before, in relative entropy; but none falls so far below the best of its gate that it could not come back. Where the
    cost was below the budget nothing is changed. Ours.
    """
    dial, costs = dial_of(supernet), table.group_costs()
    ops = selection_ops(supernet)
    curves = []
    for group, of_candidates in costs.items():
        knots = ops[group].gate.get_parameter("parametrizations.logits.original")
        curves.append((knots, knots.detach().clone(), knots.new_tensor(of_candidates) / table.total))

    def expected(pressure: float, knot: int) -> float:
        for knots, before, shares in curves:
            logits = before[knot] - pressure * shares
            knots[knot] = logits.clamp_min(float(logits.max()) - _FARTHEST)
        return float(expected_cost(supernet, table))

    with torch.no_grad():
        for knot in range(dial.knots):
            dial.turn(knot / (dial.knots - 1))
            low, high = 0.0, 1.0
            if expected(low, knot) <= dial.share:
                continue
            while expected(high, knot) > dial.share and high < _MOST:
                low, high = high, 2 * high
            for _ in range(_HALVINGS):
                middle = (low + high) / 2
                low, high = (middle, high) if expected(middle, knot) > dial.share else (low, middle)
            expected(high, knot)
        dial.turn(0.5)


_FARTHEST = 10.0  # a probability of a few in 100,000
_MOST = 2.0**20  # of a pressure: what is not reached by it, is not reached
_HALVINGS = 20


def dial_of(supernet: nn.Module) -> Dial:
    """The dial that was added to a supernet."""
    return next(module for module in supernet.modules() if isinstance(module, Dial))


class _Curve(nn.Module):
    """Logits ``(n,)`` at the dial's position from those at its knots, ``(knots, n)``."""

    def __init__(self, dial: Dial) -> None:
        super().__init__()
        self.dial = dial

    def forward(self, at_knots: Tensor) -> Tensor:
        return (self.dial.weights().to(at_knots.dtype)[:, None] * at_knots).sum(
            0
        )  # no product: autocast would round it

    def right_inverse(self, logits: Tensor) -> Tensor:
        return logits.repeat(self.dial.knots, 1)

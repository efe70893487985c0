"""The dial: gates whose logits are functions of the budget, so that one supernet holds the choices for many."""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lwdc.selection import gates


class Dial(nn.Module):
    """A position in [0, 1] on the logarithmic scale between two budgets, which every gate of a supernet reads.

    ``largest`` and ``smallest`` are shares of the original's cost. The gates' logits are given at ``knots`` positions,
    evenly spaced, and linear between them.
    """

    position: Tensor

    def __init__(self, largest: float, smallest: float, knots: int) -> None:
        super().__init__()
        assert 0 < smallest < largest and knots > 1
        self.largest, self.smallest, self.knots = largest, smallest, knots
        self.register_buffer("position", torch.tensor(0.5))  # a buffer, so that copies and checkpoints carry it

    @property
    def share(self) -> float:
        """The budget that the position stands for, as a share of the original's cost."""
        return self.largest * (self.smallest / self.largest) ** float(self.position)

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


def dial_of(supernet: nn.Module) -> Dial:
    """The dial that was added to a supernet."""
    return next(module for module in supernet.modules() if isinstance(module, Dial))


class _Curve(nn.Module):
    """Logits ``(n,)`` at the dial's position from those at its knots, ``(knots, n)``."""

    def __init__(self, dial: Dial) -> None:
        super().__init__()
        self.dial = dial

    def forward(self, at_knots: Tensor) -> Tensor:
        weights = self.dial.weights().to(at_knots.dtype)
        return (weights[:, None] * at_knots).sum(0)  # no product: autocast would round it

    def right_inverse(self, logits: Tensor) -> Tensor:
        return logits.repeat(self.dial.knots, 1)

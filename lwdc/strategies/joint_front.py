"""Joint search over a range of budgets at once: a whole front from one supernet."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lwdc.architecture import Architecture
from lwdc.costs import choose_within
from lwdc.records import SearchState
from lwdc.selection import gates
from lwdc.strategies.dial import dial_of, hold
from lwdc.strategies.joint import JointLesson


class FrontLesson:
    """Trains weights and gates for every budget on the scale of the supernet's dial, and chooses within any of them.

    Every step draws a budget, evenly on the logarithmic scale, at which the dial holds the gates, and is otherwise one
    of ``joint``, whose only cost is ``Dialled``. What is reported in between is the middle of the scale. The ``bound``
    of the choice has no part in the training: afterwards choices are read off without further search. Ours.
    """

    def __init__(self, joint: JointLesson, bound: int) -> None:
        self.joint, self.bound = joint, bound
        (held,) = joint.pressures
        self._table = held.table
        self.supernet, self.hard = joint.supernet, joint.hard
        self.dial = dial_of(self.supernet)

    def optimisers(self) -> list[torch.optim.Optimizer]:
        return self.joint.optimisers()

    def begin(self, progress: float) -> None:
        self.dial.turn(float(torch.rand(())))
        self.joint.begin(progress)
        hold(self.supernet, self._table, learning=True)

    def extra_loss(self) -> Tensor | None:
        return self.joint.extra_loss()

    def after_backward(self) -> None:
        self.joint.after_backward()

    def end(self) -> None:
        self.joint.end()
        self.dial.turn(0.5)
        hold(self.supernet, self._table)

    def choice(self, bounds: Sequence[int | None] | None = None) -> Architecture:
        """The best architecture within the bound, or within another; the dial then points there."""
        bound = self.bound if bounds is None else bounds[0]
        assert bound is not None
        self.dial.turn_to(bound / self._table.total)
        self.dial.pressure.zero_()  # what is found must not depend on where the dial stood before
        hold(self.supernet, self._table)
        for gate in gates(self.supernet):
            gate.average.zero_()  # over all budgets it says nothing of one
        return choose_within(self.supernet, [(self._table, bound)])

    def decidedness(self, architecture: Architecture) -> dict[str, float]:
        return self.joint.decidedness(architecture)

    def state(self) -> SearchState | None:
        return self.joint.state()

    def state_dict(self) -> dict[str, Any]:
        return self.joint.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.joint.load_state_dict(state)

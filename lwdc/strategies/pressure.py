"""Pressure: one cost in the objective of a search, by a factor, towards a budget, or held at one."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lwdc.costs import BudgetController, CostTable, expected_cost, linear
from lwdc.errors import CostError
from lwdc.records import CostState
from lwdc.strategies.dial import Dial


def check_pressure(name: str, factor: float | None, budget: object) -> None:
    """Raises ``CostError`` unless there is one of both, and the factor is none that would reward cost."""
    if factor is not None and factor < 0:
        raise CostError(f"{name}: cost.factor must not be negative, found {factor}: it would reward cost.")
    if (factor is None) == (budget is None):
        raise CostError(f"{name}: give either cost.factor or cost.budget, not both and not neither.")


@dataclasses.dataclass
class Pressure:
    """The weight that a cost has in a search.

    Either ``factor`` is given, and the pressure ramps up to it over the share ``ramp`` of the search, or ``budget``, a
    controller that finds the factor, with ``bound``, the cost that the choice keeps exactly. ``shape`` says what
    of the expected share is added, with a factor.
    """

    table: CostTable
    factor: float | None = None
    budget: BudgetController | None = None
    bound: int | None = None
    shape: Callable[[Tensor], Tensor] = linear
    ramp: float = 0.3
    _progress: float = dataclasses.field(default=0.0, init=False)
    _expected: float = dataclasses.field(default=1.0, init=False)

    def __post_init__(self) -> None:
        check_pressure(self.table.name, self.factor, self.budget)

    def begin(self, progress: float) -> None:
        """Set the schedule, in place, to the share ``progress`` of the search."""
        self._progress = progress
        if self.budget is not None:
            self.budget.advance(progress)

    def term(self, supernet: nn.Module) -> Tensor:
        """What the objective gains in this step: a scalar."""
        expected = expected_cost(supernet, self.table)
        self._expected = float(expected.detach())
        if self.budget is not None:
            return self.budget.term(expected)
        assert self.factor is not None
        return self.factor * self._ramped() * self.shape(expected)

    def end(self, step_share: float) -> None:
        """After a step that is ``step_share`` of the whole search."""
        if self.budget is not None:
            self.budget.update(self._expected, step_share)

    def state(self, supernet: nn.Module) -> CostState:
        """How it stands, under the gates as they are."""
        expected = float(expected_cost(supernet, self.table).detach())
        factor = self.budget.factor(self._expected) if self.budget else (self.factor or 0.0) * self._ramped()
        return CostState(self.table.name, expected, self.budget.bound if self.budget else None, factor)

    def state_dict(self) -> dict[str, Any]:
        return {
            "expected": self._expected,
            "progress": self._progress,
            "budget": self.budget.state_dict() if self.budget else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._expected, self._progress = state["expected"], state["progress"]
        if self.budget is not None:
            self.budget.load_state_dict(state["budget"])

    def _ramped(self) -> float:
        return min(1.0, self._progress / self.ramp) if self.ramp > 0 else 1.0


@dataclasses.dataclass
class Held:
    """A cost that a dial holds at its budget in every step, by the gates themselves: the objective gains nothing.

    What is reported as the factor is the dial's pressure: what a logit loses for the whole of the original's cost.
    """

    table: CostTable
    dial: Dial
    bound: None = None  # of the choice: whatever is read off

    def begin(self, progress: float) -> None:
        """Nothing: the dial has no schedule."""

    def term(self, supernet: nn.Module) -> Tensor:
        """What the objective gains in this step: nothing."""
        del supernet
        return torch.zeros((), device=self.dial.position.device)

    def end(self, step_share: float) -> None:
        """Nothing: no factor has to be found."""

    def state(self, supernet: nn.Module) -> CostState:
        """How it stands at the dial's position, under the gates as they are."""
        expected = float(expected_cost(supernet, self.table).detach())
        return CostState(self.table.name, expected, self.dial.share, float(self.dial.pressure))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        del state

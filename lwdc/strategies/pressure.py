"""Pressure: one cost in a search, weighed by a factor in the objective, or held at a bound by the gates themselves."""

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lwdc.costs import CostTable, expected_cost, linear
from lwdc.errors import CostError
from lwdc.records import CostState
from lwdc.strategies.holding import Hold


def check_pressure(name: str, factor: float | None, budget: object) -> None:
    """Raises ``CostError`` unless there is one of both, and the factor is none that would reward cost."""
    if factor is not None and factor < 0:
        raise CostError(f"{name}: cost.factor must not be negative, found {factor}: it would reward cost.")
    if (factor is None) == (budget is None):
        raise CostError(f"{name}: give either cost.factor or cost.budget, not both and not neither.")


@dataclasses.dataclass
class Pressure:
    """The weight that a cost has in a search: ``factor``, up to which it ramps over the share ``ramp`` of the search.

    ``shape`` says what of the expected share is added.
    """

    table: CostTable
    factor: float
    shape: Callable[[Tensor], Tensor] = linear
    ramp: float = 0.3
    bound: None = dataclasses.field(default=None, init=False)  # of the choice: none
    _progress: float = dataclasses.field(default=0.0, init=False)

    def begin(self, progress: float) -> None:
        """Set the schedule, in place, to the share ``progress`` of the search."""
        self._progress = progress

    def term(self, supernet: nn.Module) -> Tensor | None:
        """What the objective gains in this step: a scalar."""
        return self._weight() * self.shape(expected_cost(supernet, self.table))

    def state(self, supernet: nn.Module) -> CostState:
        """How it stands, under the gates as they are."""
        expected = float(expected_cost(supernet, self.table).detach())
        return CostState(self.table.name, expected, None, self._weight())

    def state_dict(self) -> dict[str, Any]:
        return {"progress": self._progress}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._progress = state["progress"]

    def _weight(self) -> float:
        return self.factor * (min(1.0, self._progress / self.ramp) if self.ramp > 0 else 1.0)


@dataclasses.dataclass
class Held:
    """A cost that ``hold`` keeps to a bound in every step, by the gates themselves: the objective gains nothing.

    It is the cost number ``which`` of the hold. The bound falls from the whole original cost to that of the choice,
    ``bound``, between the shares ``begin`` and ``end`` of the search; without ``bound`` it is set by others. What is
    reported as the factor is the pressure: what a logit loses for the whole of the original's cost.
    """

    hold: Hold
    which: int = 0
    bound: int | None = None  # in whole numbers of the table
    begins: float = 0.15
    ends: float = 0.6

    @property
    def table(self) -> CostTable:
        """Of the cost."""
        return self.hold.tables[self.which]

    def begin(self, progress: float) -> None:
        """Set the bound, in place, for the share ``progress`` of the search."""
        if self.bound is None:
            return
        share = min(max((progress - self.begins) / max(self.ends - self.begins, 1e-12), 0.0), 1.0)
        self.hold.shares[self.which] = (self.bound / self.table.total) ** share  # every halving takes as long

    def term(self, supernet: nn.Module) -> Tensor | None:
        """What the objective gains in this step: nothing."""
        del supernet
        return None

    def state(self, supernet: nn.Module) -> CostState:
        """How it stands, under the gates as they are."""
        expected = float(expected_cost(supernet, self.table).detach())
        which = self.which
        return CostState(self.table.name, expected, float(self.hold.shares[which]), float(self.hold.pressure[which]))

    def state_dict(self) -> dict[str, Any]:
        return {}  # the supernet's holds everything

    def load_state_dict(self, state: dict[str, Any]) -> None:
        del state

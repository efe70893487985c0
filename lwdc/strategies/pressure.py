"""Pressure: one cost in a search, weighed by a factor in the objective, or held at a bound by the gates themselves."""

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lwdc.costs import CostTable, expected_cost, linear
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
    """A cost that ``Holding`` keeps within a bound in every step, by the gates themselves: the objective gains nothing.

    The bound falls from the whole original cost to that of the choice, ``bound``, between the shares ``begins`` and
    ``ends`` of the search. What is reported as the factor is the ``pressure``: what a logit loses for the whole of the
    original's cost.
    """

    table: CostTable
    bound: int  # in whole numbers of the table
    begins: float = 0.15
    ends: float = 0.6
    share: float = dataclasses.field(default=1.0, init=False)  # of the original's cost, at this moment
    pressure: float = dataclasses.field(default=0.0, init=False)

    def begin(self, progress: float) -> None:
        """Set the share, in place, for the share ``progress`` of the search."""
        way = min(max((progress - self.begins) / max(self.ends - self.begins, 1e-12), 0.0), 1.0)
        self.share = (self.bound / self.table.total) ** way  # geometric: every halving takes as long

    def term(self, supernet: nn.Module) -> Tensor | None:
        """What the objective gains in this step: nothing."""
        del supernet
        return None

    def state(self, supernet: nn.Module) -> CostState:
        """How it stands, under the gates as they are."""
        expected = float(expected_cost(supernet, self.table).detach())
        return CostState(self.table.name, expected, self.share, self.pressure)

    def state_dict(self) -> dict[str, Any]:
        return {"share": self.share, "pressure": self.pressure}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.share, self.pressure = state["share"], state["pressure"]


@dataclasses.dataclass
class Dialled:
    """A cost that a dial holds at its budget in every step, by the gates themselves: the objective gains nothing.

    What is reported as the factor is the dial's pressure: what a logit loses for the whole of the original's cost.
    """

    table: CostTable
    dial: Dial
    bound: None = None  # of the choice: whatever is read off

    def begin(self, progress: float) -> None:
        """Nothing: the dial has no schedule."""

    def term(self, supernet: nn.Module) -> Tensor | None:
        """What the objective gains in this step: nothing."""
        del supernet
        return None

    def state(self, supernet: nn.Module) -> CostState:
        """How it stands at the dial's position, under the gates as they are."""
        expected = float(expected_cost(supernet, self.table).detach())
        return CostState(self.table.name, expected, self.dial.share, float(self.dial.pressure))

    def state_dict(self) -> dict[str, Any]:
        return {}  # the supernet's holds everything

    def load_state_dict(self, state: dict[str, Any]) -> None:
        del state

"""What a cost model promises."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import nn

from lwdc.errors import CostError
from lwdc.tracing import Shape

if TYPE_CHECKING:
    from lwdc.costs.table import CostTable


class CostModel(Protocol):
    """Measures one module, an operator at a site or a whole network, whose cost is the sum over its parts."""

    name: str
    unit: str

    def __call__(self, module: nn.Module, input_shapes: Sequence[Shape]) -> int:
        """The cost of ``module`` for one image, which it sees once in each of ``input_shapes``."""


@runtime_checkable
class WholeCostModel(Protocol):
    """Measures a supernet as a whole: a cost that is more than a sum, or that is measured better together."""

    name: str
    unit: str

    def tabulate(self, supernet: nn.Module) -> "CostTable":
        """The table of ``supernet``, which is left as it was."""


@runtime_checkable
class MeasuredCostModel(WholeCostModel, Protocol):
    """A cost that a table only predicts, and that a finished network can be measured for."""

    def measure(self, network: nn.Module, original: nn.Module, input_size: Shape, table: "CostTable") -> int:
        """The cost of ``network``, measured beside the ``original`` one, in the table's whole numbers."""


def check_cost(cost: Any) -> None:
    """Raise ``CostError`` unless ``cost`` is an object with a name and a unit that measures."""
    kind = type(cost).__name__
    if isinstance(cost, type | str | int):
        raise CostError(f"cost is a cost model, such as lwdc.Macs() or lwdc.Latency(batch=8); found {cost!r:.200}.")
    for attribute in ("name", "unit"):
        found = getattr(cost, attribute, None)
        if not isinstance(found, str) or not found:
            raise CostError(f"a cost has a {attribute}, as text; that of {kind} is {found!r}.")
    if not callable(cost) and not isinstance(cost, WholeCostModel):
        raise CostError(
            f"cost {cost.name!r}: {kind} measures nothing; give it __call__(module, input_shapes), or "
            "tabulate(supernet) for a cost of whole networks."
        )

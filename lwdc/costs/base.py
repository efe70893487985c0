"""What a cost model promises."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import nn

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

"""What a cost model promises."""

from collections.abc import Sequence
from typing import Protocol

from torch import nn

from lwdc.tracing import Shape


class CostModel(Protocol):
    """Measures one module: a cost of the operators at a site, or of a whole network."""

    name: str
    unit: str

    def __call__(self, module: nn.Module, input_shapes: Sequence[Shape]) -> int:
        """The cost of ``module`` for one image, which it sees once in each of ``input_shapes``."""

"""Parameters as a cost."""

import dataclasses
from collections.abc import Sequence

from torch import nn

from lwdc.counting import count_params
from lwdc.tracing import Shape


@dataclasses.dataclass(frozen=True)
class Params:
    """Parameters, however often a module runs."""

    name: str = "params"
    unit: str = "params"

    def __call__(self, module: nn.Module, input_shapes: Sequence[Shape]) -> int:
        del input_shapes  # A weight is stored once.
        return count_params(module)

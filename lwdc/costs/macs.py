"""Multiply-accumulates as a cost."""

import dataclasses
from collections.abc import Sequence

from torch import nn

from lwdc.counting import count_macs
from lwdc.tracing import Shape


@dataclasses.dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of convolutions and matrix products for one image."""

    name: str = "macs"
    unit: str = "MAC"

    def __call__(self, module: nn.Module, input_shapes: Sequence[Shape]) -> int:
        return count_macs(module, input_shapes)

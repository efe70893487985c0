"""Bytes of weights as a cost."""

import dataclasses
from collections.abc import Sequence

from torch import nn

from lwdc.tracing import Shape


@dataclasses.dataclass(frozen=True)
class Size:
    """Bytes of a network's package, ``model.safetensors``, without its header: parameters and buffers, once each."""

    name: str = "size"
    unit: str = "B"

    def __call__(self, module: nn.Module, input_shapes: Sequence[Shape]) -> int:
        del input_shapes  # A weight is stored once.
        stored = {id(tensor): tensor for tensor in module.state_dict(keep_vars=True).values()}
        return sum(tensor.nbytes for tensor in stored.values())

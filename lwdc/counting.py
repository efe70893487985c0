"""Counting: multiply-accumulates and parameters of a module, as whole numbers."""

from collections import Counter
from collections.abc import Iterable

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lwdc.tracing import WAYS, Shape, outline


def count_macs(module: nn.Module, input_shapes: Iterable[Shape]) -> int:
    """Multiply-accumulates of convolutions and matrix products, one image, summed over the inputs given.

    Biases, norms, activations, pooling and elementwise work count as zero, as in most papers: the
    number is half of what ``torch.utils.flop_counter`` reports. Nothing is computed, unless the way
    through ``module`` hangs on values; it is left as it was.
    """
    uses = Counter(tuple(shape) for shape in input_shapes)
    return sum(count * _flops(module, shape) for shape, count in uses.items()) // 2


def _flops(module: nn.Module, shape: Shape) -> int:
    for run in WAYS:
        counter = FlopCounterMode(display=False)
        try:
            with counter:
                run(outline(module), shape)
        except Exception as error:  # noqa: BLE001  the next may do
            failure = error
        else:
            return int(counter.get_total_flops())
    raise failure


def count_params(module: nn.Module) -> int:
    """Number of parameters, each shared one once; buffers are not counted."""
    return sum(p.numel() for p in module.parameters())

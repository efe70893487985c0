"""Counting: multiply-accumulates and parameters of a module, as whole numbers."""

from collections import Counter
from collections.abc import Hashable, Iterable

from torch import Tensor, nn
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
    described = _described(module)
    if described is None:
        return _counted(module, shape)
    if (described, shape) not in _known:
        _known[described, shape] = _counted(module, shape)
    return _known[described, shape]


_known: dict[tuple[Hashable, Shape], int] = {}  # of layers that are alike: a run counts each of them several times


def _described(module: nn.Module) -> Hashable:
    """All that the count hangs on, if ``module`` is made of nothing but PyTorch's own layers; else None."""
    for part in module.modules():
        if type(part) not in _PLAIN or "forward" in vars(part) or part._forward_hooks or part._forward_pre_hooks:
            return None
    return repr(module), tuple(p.shape for p in module.parameters())


_PLAIN = {
    nn.Sequential, nn.Identity, nn.Conv1d, nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.ReLU,
    nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d,
}  # fmt: skip


def _counted(module: nn.Module, shape: Shape) -> int:
    for way in WAYS:
        counter = FlopCounterMode(display=False)
        try:
            run = way(_without_norms(outline(module)), shape)
            with counter:
                run()
        except Exception as error:  # noqa: BLE001  the next may do
            failure = error
        else:
            return int(counter.get_total_flops())
    raise failure


def _without_norms(module: nn.Module) -> nn.Module:
    """``module``, whose batch norms hand on what they get, in place: to run them on shapes takes the longest."""
    for part in module.modules():
        if type(part) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d) and "forward" not in vars(part):
            part.forward = _as_it_is
    return module


def _as_it_is(x: Tensor) -> Tensor:
    return x


def count_params(module: nn.Module) -> int:
    """Number of parameters, each shared one once; buffers are not counted."""
    return sum(p.numel() for p in module.parameters())

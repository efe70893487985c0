"""Counting: multiply-accumulates and parameters of a module, as whole numbers."""

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import NamedTuple

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lwdc.tracing import WAYS, Shape, outline


def count_macs(module: nn.Module, input_shapes: Iterable[Shape]) -> int:
    """Multiply-accumulates of convolutions and matrix products, one image, summed over the inputs given.

    Biases, norms, activations, pooling and elementwise work count as zero, as in most papers: the
    number is half of what ``torch.utils.flop_counter`` reports. Nothing is computed, unless the way
    through ``module`` hangs on values; it is left as it was.
    """
    return count_calls(module, input_shapes)[0]


def count_calls(module: nn.Module, input_shapes: Iterable[Shape]) -> tuple[int, dict[Shape, Shape | None]]:
    """``count_macs``, and the shape of what each input gives; None where that is no tensor."""
    uses = Counter(tuple(shape) for shape in input_shapes)
    runs = {shape: _run(module, shape) for shape in uses}
    macs = sum(count * runs[shape].flops for shape, count in uses.items()) // 2
    return macs, {shape: run.output for shape, run in runs.items()}


class _Run(NamedTuple):
    flops: int
    output: Shape | None


def _run(module: nn.Module, shape: Shape) -> _Run:
    described = _described(module)
    if described is None:
        return _counted(module, shape)
    if (described, shape) not in _known:
        _known[described, shape] = _counted(module, shape)
    return _known[described, shape]


_known: dict[tuple[Hashable, Shape], _Run] = {}  # of layers that are alike: a run counts each of them several times


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


def _counted(module: nn.Module, shape: Shape) -> _Run:
    for way in WAYS:
        counter = FlopCounterMode(display=False)
        try:
            run = way(_without_norms(outline(module)), shape)
            with counter:
                output = run()
        except Exception as error:  # noqa: BLE001  the next may do
            failure = error
        else:
            found = tuple(output.shape[1:]) if isinstance(output, Tensor) else None
            return _Run(int(counter.get_total_flops()), found)
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

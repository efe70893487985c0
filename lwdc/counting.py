"""Counting: multiply-accumulates and parameters of a module, as whole numbers."""

import contextlib
from collections.abc import Iterable

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from lwdc.sites import Shape, outline


def count_macs(module: nn.Module, input_shapes: Iterable[Shape]) -> int:
    """Multiply-accumulates of convolutions and matrix products, one image, summed over the inputs given.

    Biases, norms, activations, pooling and elementwise work count as zero, as in most papers: the
    number is half of what ``torch.utils.flop_counter`` reports. Nothing is computed; ``module`` is
    left as it was. One without storage, on the meta device, is counted many times faster.
    """
    reference = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
    module = outline(module)
    counter = FlopCounterMode(display=False)
    shapes_only = contextlib.nullcontext() if reference.is_meta else FakeTensorMode(allow_non_fake_inputs=True)
    with shapes_only, torch.no_grad(), counter:
        for shape in input_shapes:
            module(torch.zeros(1, *shape, dtype=reference.dtype, device=reference.device))
    return int(counter.get_total_flops()) // 2


def count_params(module: nn.Module) -> int:
    """Number of parameters, each shared one once; buffers are not counted."""
    return sum(p.numel() for p in module.parameters())

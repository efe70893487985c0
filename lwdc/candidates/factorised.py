"""Spatially factorised convolution: one axis of the kernel, then the other."""

import functools

from torch import Tensor

from lwdc.candidates.base import DoesNotFit, Operator
from lwdc.candidates.chain import Chain, Layer
from lwdc.candidates.low_rank import truncate
from lwdc.candidates.registry import register_candidate
from lwdc.sites import Site


@register_candidate("factorised")
def factorised(site: Site, *, ratio: float = 0.5) -> Operator:
    """``k x 1`` and then ``1 x k``, with ``ratio`` times the site's filters between them, at least 1 a group."""
    if not 0 < ratio <= 1:
        raise DoesNotFit(f"ratio={ratio} is not in (0, 1]")
    if site.dims != 2 or min(site.kernel_size) == 1:
        raise DoesNotFit("the kernel has one axis only: nothing to factorise")
    g = site.groups
    most = min(site.out_channels // g * site.kernel_size[1], site.in_channels // g * site.kernel_size[0])
    middle = min(most, max(1, round(ratio * site.out_channels / g)))
    layers = [
        Layer(site.in_channels, g * middle, g, (True, False)),
        Layer(g * middle, site.out_channels, g, (False, True)),
    ]
    return Chain(site, layers, factorise=functools.partial(by_axis, groups=g, rank=middle))


def by_axis(weight: Tensor, groups: int, rank: int) -> tuple[Tensor, Tensor]:
    """The best ``k x 1`` and ``1 x k`` layers for ``weight`` ``(C_out, C_in / groups, k_h, k_w)``.

    A truncated SVD of the matrix that has filters and columns on one side, channels and rows on the other.
    """
    out, into, height, width = weight.shape
    matrix = weight.permute(0, 3, 1, 2).reshape(out * width, into, height)
    core, wide = truncate(matrix, groups, rank)  # (g r, C_in / g, k_h), (C_out k_w, r, 1)
    return core.unsqueeze(-1), wide.reshape(out, width, rank).transpose(1, 2).unsqueeze(2)

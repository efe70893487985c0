"""Depthwise-separable convolution without a norm between: depthwise, then pointwise."""

import functools
import math

import torch
from torch import Tensor

from lwdc.candidates.base import DoesNotFit, needs_space
from lwdc.candidates.chain import Chain, Layer
from lwdc.candidates.registry import register_candidate
from lwdc.geometry import centred_support
from lwdc.sites import Site


@register_candidate("separable")
def separable(site: Site, *, size: int | None = None) -> Chain:
    """A depthwise kernel of ``size`` (default: the site's own), then a pointwise convolution (Sep_3x3)."""
    taps = site.kernel_size if size is None else (size,) * site.dims
    needs_space(site)
    if min(taps) < 1 or math.prod(taps) == 1:
        raise DoesNotFit(f"a kernel of {taps} has nothing to separate")
    if site.groups == site.in_channels:
        raise DoesNotFit("the site is depthwise already")
    return Chain(
        site,
        separable_layers(site),
        support=centred_support(site, taps, site.dilation),
        factorise=functools.partial(separate, groups=site.groups),
    )


def separable_layers(site: Site) -> list[Layer]:
    """The two layers: the depthwise one carries stride and padding."""
    spatial, none = (True,) * site.dims, (False,) * site.dims
    return [
        Layer(site.in_channels, site.in_channels, site.in_channels, spatial),
        Layer(site.in_channels, site.out_channels, site.groups, none),
    ]


def separate(weight: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Depthwise and pointwise weights nearest to ``weight`` ``(C_out, C_in / groups, *k)``.

    Per input channel the rank-1 SVD of its ``(C_out / groups, taps)`` slice: the Frobenius optimum.
    """
    out, into, *taps = weight.shape
    slices = weight.reshape(groups, out // groups, into, -1).transpose(1, 2).flatten(0, 1)  # (C_in, C_out / g, taps)
    filters, columns = rank_one(slices)
    columns = columns.view(groups, into, out // groups).transpose(1, 2)  # (g, C_out / g, C_in / g)
    return filters.view(groups * into, 1, *taps), columns.reshape(out, into, *(1 for _ in taps))


def rank_one(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Rows ``(n, columns)`` and columns ``(n, rows)`` whose outer products are nearest to ``(n, rows, columns)``.

    Both have the same norm. From the eigenvectors of the small Gram matrix: far cheaper than a full SVD.
    """
    wide = matrices.double()
    vectors = torch.linalg.eigh(wide.transpose(1, 2) @ wide).eigenvectors[..., -1]  # (n, columns)
    columns = (wide @ vectors.unsqueeze(2)).squeeze(2)
    root = columns.norm(dim=1, keepdim=True).sqrt()
    return (vectors * root).to(matrices), (columns / root.clamp_min(1e-30)).to(matrices)

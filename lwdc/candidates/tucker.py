"""Tucker convolution: 1x1 to fewer channels, the site's kernel between few channels, 1x1 to full width."""

import functools
import math

import torch
from torch import Tensor

from lwdc.candidates.base import DoesNotFit, needs_space
from lwdc.candidates.chain import Chain, Layer
from lwdc.candidates.registry import register_candidate
from lwdc.sites import Site


@register_candidate("tucker")
def tucker(site: Site, *, ratio: float) -> Chain:
    """Inner widths are ``ratio`` times the site's input and output channels, at least 1 in each of its groups.

    The Tucker-2 decomposition of Kim et al., "Compression of deep convolutional neural networks for fast and low
    power mobile applications", 2016; they choose the ranks from the weights, here they are given.
    """
    needs_space(site)
    if not 0 < ratio < 1:
        raise DoesNotFit(f"ratio={ratio} is not between 0 and 1")
    if math.prod(site.kernel_size) == 1:
        raise DoesNotFit("a kernel of one tap has no core to keep")
    g = site.groups
    into, out = site.in_channels // g, site.out_channels // g
    narrow_in, narrow_out = max(1, round(ratio * into)), max(1, round(ratio * out))
    if narrow_in >= into or narrow_out >= out:
        raise DoesNotFit(f"{into} -> {out} channels are too few to be reduced")
    spatial, none = (True,) * site.dims, (False,) * site.dims
    layers = [
        Layer(site.in_channels, g * narrow_in, g, none),
        Layer(g * narrow_in, g * narrow_out, g, spatial),
        Layer(g * narrow_out, site.out_channels, g, none),
    ]
    return Chain(
        site, layers, factorise=functools.partial(decompose, groups=g, narrow_in=narrow_in, narrow_out=narrow_out)
    )


_TURNS = 4  # of higher-order orthogonal iteration


def decompose(
    weight: Tensor, groups: int, narrow_in: int, narrow_out: int, turns: int = _TURNS
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of reduction, core and expansion whose product is near ``weight`` ``(C_out, C_in / groups, *k)``.

    Per group. There is no closed form: the higher-order SVD is improved by ``turns`` of higher-order orthogonal
    iteration (De Lathauwer et al., 2000), none of which makes it worse. The three have the same norm.
    """
    out, into, *taps = weight.shape
    wide = weight.reshape(groups, out // groups, into, -1).double()  # (g, o, i, taps)
    front = _leading(wide.transpose(1, 2), narrow_in)  # (g, i, narrow_in)
    back = _leading(wide, narrow_out)  # (g, o, narrow_out)
    for _ in range(turns):
        front = _leading(torch.einsum("goit,gor->girt", wide, back), narrow_in)
        back = _leading(torch.einsum("goit,gis->gost", wide, front), narrow_out)
    core = torch.einsum("goit,gor,gis->grst", wide, back, front)
    scale = float(core.norm() * back.norm() * front.norm()) ** (1 / 3)
    front, core, back = (part * (scale / part.norm().clamp_min(1e-30)) for part in (front, core, back))
    ones = [1] * len(taps)
    return (
        front.transpose(1, 2).reshape(groups * narrow_in, into, *ones).to(weight),
        core.reshape(groups * narrow_out, narrow_in, *taps).to(weight),
        back.reshape(out, narrow_out, *ones).to(weight),
    )


def _leading(tensors: Tensor, rank: int) -> Tensor:
    """The ``rank`` leading left singular vectors ``(g, n, rank)`` of ``(g, n, ...)``, by their Gram matrix."""
    matrices = tensors.flatten(2)
    return torch.linalg.eigh(matrices @ matrices.transpose(1, 2)).eigenvectors[..., -rank:]

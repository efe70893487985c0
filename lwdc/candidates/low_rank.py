"""Low-rank convolution: the site's kernel with few filters, then a 1x1 convolution back to full width."""

import functools

import torch
from torch import Tensor

from lwdc.candidates.base import DoesNotFit, Operator
from lwdc.candidates.chain import Chain, Layer
from lwdc.candidates.registry import register_candidate
from lwdc.sites import Site


@register_candidate("low_rank")
def low_rank(site: Site, *, ratio: float) -> Operator:
    """Rank ``ratio`` times the full rank of ``(C_out, C_in * taps)``, per group of the site; at least 1."""
    if not 0 < ratio < 1:
        raise DoesNotFit(f"ratio={ratio} is not between 0 and 1")
    g = site.groups
    taps = 1
    for k in site.kernel_size:
        taps *= k
    full = min(site.out_channels // g, site.in_channels // g * taps)
    rank = max(1, round(ratio * full))
    if rank >= full:
        raise DoesNotFit(f"the rank is at most {full}: nothing to reduce")
    layers = [
        Layer(site.in_channels, g * rank, g, (True,) * site.dims),
        Layer(g * rank, site.out_channels, g, (False,) * site.dims),
    ]
    return Chain(site, layers, factorise=functools.partial(truncate, groups=g, rank=rank))


def truncate(weight: Tensor, groups: int, rank: int) -> tuple[Tensor, Tensor]:
    """The truncated SVD of ``weight`` ``(C_out, C_in / groups, *k)`` per group, its roots shared by both factors.

    From the eigenvectors of the smaller Gram matrix, in float32, or float64 for a weight in it: far cheaper than a full
    SVD. A product cannot come nearer to a float32 weight than about 3e-4 of its norm that way, which matters only to
    weights of lower rank.
    """
    out, into, *taps = weight.shape
    wide = weight.reshape(groups, out // groups, -1)
    vectors = _eigenvectors(_ByValue(wide))[..., -rank:]
    wide = wide.to(vectors)
    if wide.shape[1] <= wide.shape[2]:
        left = vectors  # (g, C_out / g, rank)
        right = left.transpose(1, 2) @ wide
        root = right.norm(dim=2).sqrt()
        right, left = right / root.clamp_min(1e-30).unsqueeze(2), left * root.unsqueeze(1)
    else:
        right = vectors.transpose(1, 2)
        left = wide @ right.transpose(1, 2)
        root = left.norm(dim=1).sqrt()
        right, left = right * root.unsqueeze(2), left / root.clamp_min(1e-30).unsqueeze(1)
    core = right.reshape(groups * rank, into, *taps).to(weight)
    return core, left.reshape(out, rank, *(1 for _ in taps)).to(weight)


class _ByValue:
    """A matrix as a key: equal to another of equal entries."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix.detach().clone()
        self._type = (matrix.dtype, matrix.device)

    def __hash__(self) -> int:
        return hash(self.matrix.shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByValue) and self._type == other._type and torch.equal(self.matrix, other.matrix)


def forget() -> None:
    """Free what is kept of the last weight; called when a layer's operators have inherited."""
    _eigenvectors.cache_clear()


@functools.lru_cache(maxsize=1)  # operators of one layer that differ in their rank come one after the other
def _eigenvectors(key: _ByValue) -> Tensor:
    """Eigenvectors of the smaller Gram matrix of ``(g, m, n)``, by rising eigenvalue."""
    wide = key.matrix.to(torch.promote_types(key.matrix.dtype, torch.float32))
    gram = wide @ wide.transpose(1, 2) if wide.shape[1] <= wide.shape[2] else wide.transpose(1, 2) @ wide
    return torch.linalg.eigh(gram).eigenvectors

"""Shuffled convolution: a grouped convolution whose output channels are then dealt out, as in ShuffleNet."""

import functools

from torch import Tensor, nn

from lwdc.candidates.base import DoesNotFit, Operator, needs_space
from lwdc.candidates.chain import Chain, Layer, diagonal_blocks, ungroup
from lwdc.candidates.registry import register_candidate
from lwdc.geometry import centred_support
from lwdc.sites import Site


@register_candidate("shuffled")
def shuffled(site: Site, *, groups: int, size: int | None = None) -> Operator:
    """``groups`` counts the groups of the whole convolution, ``size`` is that of its kernel (default: the site's).

    Zhang et al., "ShuffleNet", 2018. A site's own groups stay apart: channels are shuffled within each of them,
    which is ours.
    """
    needs_space(site)
    if groups <= site.groups:
        raise DoesNotFit(f"the site itself has {site.groups} groups")
    if groups >= site.out_channels:
        raise DoesNotFit(f"{groups} groups of one filter: there is nothing to shuffle")
    if size is not None and size < 1:
        raise DoesNotFit(f"there is no kernel of size {size}")
    return Shuffled(site, groups, site.kernel_size if size is None else (size,) * site.dims)


class Shuffled(Chain):
    """Linear: the kernel of the grouped convolution with its rows dealt out."""

    def __init__(self, site: Site, groups: int, size: tuple[int, ...]) -> None:
        filters = site.out_channels // groups
        kept = functools.partial(held_by, site_groups=site.groups, groups=groups)
        layer = Layer(site.in_channels, site.out_channels, groups, (True,) * site.dims)
        super().__init__(site, [layer], support=centred_support(site, size, site.dilation), factorise=kept)
        self.groups = site.groups  # once shuffled, the rows form no smaller blocks
        self.filters = filters  # of each group of the convolution
        self.layers.append(ChannelShuffle(site.groups, groups // site.groups))

    def compact_kernel(self) -> Tensor:
        conv = self.convolutions[0]
        dense = ungroup(conv.weight, conv.groups, self.groups)
        return deal(dense, 0, self.groups, conv.groups // self.groups)

    def release(self, bias: Tensor | None) -> nn.Module:
        """The bias is added before the shuffle, so it is put into the order that holds there."""
        if bias is not None:
            bias = deal(bias.detach(), 0, self.groups, self.filters).requires_grad_(bias.requires_grad)
        return super().release(bias)


def held_by(weight: Tensor, site_groups: int, groups: int) -> list[Tensor]:
    """The entries that the grouped convolution has a place for: the Frobenius optimum."""
    return [diagonal_blocks(deal(weight, 0, site_groups, weight.shape[0] // groups), site_groups, groups)]


class ChannelShuffle(nn.Module):
    """Deals out the channels of ``groups`` in turn, within each of ``outer`` groups."""

    def __init__(self, outer: int, groups: int) -> None:
        super().__init__()
        self.outer, self.groups = outer, groups

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, *sizes)`` in another order of the channels."""
        return deal(x, 1, self.outer, self.groups)

    def extra_repr(self) -> str:
        return f"groups={self.groups}" + (f", within each of {self.outer}" if self.outer > 1 else "")


def deal(x: Tensor, axis: int, outer: int, groups: int) -> Tensor:
    """``axis`` read as ``(outer, groups, n)`` and laid out as ``(outer, n, groups)``; with ``n`` for groups, back."""
    split = x.unflatten(axis, (outer, groups, x.shape[axis] // (outer * groups)))
    return split.transpose(axis + 1, axis + 2).flatten(axis, axis + 2)

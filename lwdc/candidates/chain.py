"""A chain of linear layers: the one operator behind grouped, sized, separable and low-rank convolutions."""

import dataclasses
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from lwdc.candidates.base import DoesNotFit, Operator, check_padding, own_bias, restrict, scaled_like
from lwdc.geometry import Pad, Support, block_linear, own_support, pads_for
from lwdc.sites import Site

Factorise = Callable[[Tensor], Sequence[Tensor]]  # (C_out, C_in / site.groups, *support.count) -> one weight a layer


@dataclasses.dataclass(frozen=True)
class Layer:
    """One convolution of a chain: the axes on which it carries the site's taps, stride and padding."""

    in_channels: int
    out_channels: int
    groups: int
    axes: tuple[bool, ...]


class Chain(Operator):
    """Convolutions one after another with nothing between: linear, so also one kernel.

    Every axis belongs to exactly one layer, which carries stride, padding and dilation there; inner
    layers have no bias. ``factorise`` gives the layers' best weights for a kernel on ``support``;
    a single layer needs none: the blocks that it keeps are the best.
    """

    def __init__(
        self,
        site: Site,
        layers: Sequence[Layer],
        *,
        support: Support | None = None,
        factorise: Factorise | None = None,
    ) -> None:
        groups = math.gcd(*(layer.groups for layer in layers))
        support = support or own_support(site)
        super().__init__(site, support, groups)
        for layer in layers:
            if layer.in_channels % layer.groups or layer.out_channels % layer.groups:
                raise DoesNotFit(
                    f"groups={layer.groups} does not divide {layer.in_channels} -> {layer.out_channels} channels"
                )
        if groups % site.groups:
            raise DoesNotFit(f"groups={groups} is no multiple of the site's own {site.groups}")
        check_padding(site, support)
        self.layers = nn.Sequential(*(module for layer in layers for module in convolution(site, support, layer)))
        self._specs = tuple(layers)
        self._factorise = factorise

    @property
    def convolutions(self) -> list[Any]:
        """The chain's convolutions in order; at a Linear layer those are Linear layers."""
        return [m for m in self.layers if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Linear, BlockLinear))]

    @property
    def product_rank(self) -> int:
        if len(self._specs) == 1 or any(_is_depthwise(spec) for spec in self._specs):
            return 0
        return max(spec.out_channels // self.groups for spec in self._specs[:-1])

    def compact_kernel(self) -> Tensor:
        return self._composed([conv.weight for conv in self.convolutions], 1)

    def alike(self) -> Hashable:
        """None for a subclass whose kernel is another than that of the layers."""
        own = type(self).compact_kernel is Chain.compact_kernel
        return (self.support, self._specs) if own else None

    def compact_kernels(self, others: Sequence[Operator]) -> Tensor:
        """Chains side by side are one chain of so many times the groups."""
        chains = [self, *cast(Sequence[Chain], others)]
        layers = zip(*(chain.convolutions for chain in chains), strict=True)
        return self._composed([torch.cat([conv.weight for conv in layer]) for layer in layers], len(chains))

    def _composed(self, weights: Sequence[Tensor], count: int) -> Tensor:
        """The kernels of ``count`` chains, whose layers' ``weights`` lie one after the other."""
        kernel, groups = weights[0], count * self._specs[0].groups
        for weight, spec in zip(weights[1:], self._specs[1:], strict=True):
            kernel, groups = compose(kernel, groups, weight, count * spec.groups)
        return kernel

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def inherit(self, weight: Tensor) -> float:
        assert self.support is not None
        target = restrict(weight, self.site, self.support)
        if not target.any():  # Factors that are all zeros would never learn: all but the last are fresh.
            self.reset(0.0)
            return self._error(weight)
        factors = (
            self._factorise(target) if self._factorise else [diagonal_blocks(target, self.site.groups, self.groups)]
        )
        with torch.no_grad():
            for conv, factor in zip(self.convolutions, factors, strict=True):
                conv.weight.copy_(factor.reshape(conv.weight.shape))
        return self._error(weight)

    def reset(self, norm: float) -> None:
        for conv in self.convolutions:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
        with torch.no_grad():
            self.convolutions[-1].weight.mul_(scaled_like(self.compact_kernel(), norm))

    def release(self, bias: Tensor | None) -> nn.Module:
        if bias is not None:
            self.convolutions[-1].bias = own_bias(bias)
        return self.layers[0] if len(self.layers) == 1 else self.layers


class BlockLinear(nn.Module):
    """A Linear layer whose weight is block-diagonal: what groups are to a convolution."""

    bias: nn.Parameter | None

    def __init__(self, in_features: int, out_features: int, groups: int) -> None:
        super().__init__()
        self.in_features, self.out_features, self.groups = in_features, out_features, groups
        self.weight = nn.Parameter(torch.empty(out_features, in_features // groups))
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")
        self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in_features)`` to ``(..., out_features)``."""
        return block_linear(x, self.weight, self.bias, self.groups)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, groups={self.groups}"


def convolution(site: Site, support: Support, layer: Layer) -> list[nn.Module]:
    """The modules of one layer: a convolution, with a ``Pad`` before it where its own padding cannot serve.

    At a Linear layer it is one, block-diagonal where there are groups.
    """
    if site.dims == 0 and layer.groups == 1:
        return [nn.Linear(layer.in_channels, layer.out_channels, bias=False)]
    if site.dims == 0:
        return [BlockLinear(layer.in_channels, layer.out_channels, layer.groups)]

    def on(values: Sequence[int], otherwise: int) -> tuple[int, ...]:
        return tuple(v if axis else otherwise for v, axis in zip(values, layer.axes, strict=True))

    pads = [p if axis else (0, 0) for p, axis in zip(_static_pads(site, support), layer.axes, strict=True)]
    plain = not (site.same and any(layer.axes)) and all(a == b >= 0 for a, b in pads)
    conv_class = nn.Conv2d if site.dims == 2 else nn.Conv1d
    conv = conv_class(
        layer.in_channels,
        layer.out_channels,
        on(support.count, 1),  # type: ignore[arg-type]
        stride=on(site.stride, 1),  # type: ignore[arg-type]
        padding=tuple(a for a, _ in pads) if plain else 0,  # type: ignore[arg-type]
        dilation=on(support.step, 1),  # type: ignore[arg-type]
        groups=layer.groups,
        bias=False,
        padding_mode=site.padding_mode if plain and any(a for a, _ in pads) else "zeros",  # type: ignore[arg-type]
    )
    return [conv] if plain else [Pad(site, support, layer.axes), conv]


def compose(first: Tensor, first_groups: int, second: Tensor, second_groups: int) -> tuple[Tensor, int]:
    """The weight and groups of one convolution that equals ``first`` and then ``second``.

    ``first`` is ``(M, I / first_groups, *a)``, ``second`` ``(O, M / second_groups, *b)``; on each axis at
    most one of ``a`` and ``b`` is longer than 1.
    """
    middle, out = first.shape[0], second.shape[0]
    if first_groups == middle and first.shape[1] == 1:  # depthwise, then dense: scale each input channel
        into = middle // second_groups
        dense = second.reshape(second_groups, out // second_groups, into, *second.shape[2:])
        return _scaled(dense, first.reshape(second_groups, 1, into, *first.shape[2:])).flatten(0, 1), second_groups
    if second_groups == middle == out:  # dense, then depthwise: scale each output channel
        return _scaled(first.unsqueeze(0), second.unsqueeze(0)).squeeze(0), first_groups
    groups = math.gcd(first_groups, second_groups)
    a = ungroup(first, first_groups, groups)  # (M, I / groups, *a)
    b = ungroup(second, second_groups, groups)  # (O, M / groups, *b)
    inner = a.reshape(groups, middle // groups, -1)  # (g, M / g, I / g * taps)
    outer = b.view(groups, out // groups, middle // groups, *b.shape[2:]).movedim(2, -1)
    product = outer.flatten(1, -2) @ inner  # (g, O / g * taps_b, I / g * taps_a)
    dims = a.dim() - 2
    product = product.view(out, *b.shape[2:], a.shape[1], *a.shape[2:])
    order = [0, 1 + dims] + [axis for j in range(dims) for axis in (1 + j, 2 + dims + j)]
    taps = [x * y for x, y in zip(a.shape[2:], b.shape[2:], strict=True)]
    return product.permute(order).reshape(out, a.shape[1], *taps), groups


def _scaled(a: Tensor, b: Tensor) -> Tensor:
    """The product of two ``(g, O, I, *taps)`` that broadcast."""
    longer = a if math.prod(a.shape[3:]) > 1 else b
    if min(math.prod(a.shape[3:]), math.prod(b.shape[3:])) > 1:
        return a * b
    # With the taps as one axis: inner loops over 3 x 3 are dozens of times slower.
    return (a.flatten(3) * b.flatten(3)).unflatten(3, list(longer.shape[3:]))


def ungroup(weight: Tensor, groups: int, fewer: int) -> Tensor:
    """A grouped weight ``(O, I / groups, *k)`` written with ``fewer`` groups: block-diagonal, zeros between."""
    if groups == fewer:
        return weight
    ratio = groups // fewer
    out, into, *taps = weight.shape
    dense = weight.new_zeros(fewer, ratio, out // groups, ratio, into, *taps)
    blocks = weight.view(fewer, ratio, out // groups, into, *taps)
    dense.diagonal(dim1=1, dim2=3).copy_(blocks.movedim(1, -1))
    return dense.view(out, ratio * into, *taps)


def diagonal_blocks(weight: Tensor, groups: int, more: int) -> Tensor:
    """The blocks of a weight ``(O, I / groups, *k)`` that a convolution with ``more`` groups keeps."""
    ratio = more // groups
    out, into, *taps = weight.shape
    blocks = weight.reshape(groups, ratio, out // more, ratio, into // ratio, *taps)
    return blocks.diagonal(dim1=1, dim2=3).movedim(-1, 1).reshape(out, into // ratio, *taps)


def _is_depthwise(spec: Layer) -> bool:
    return spec.groups == spec.in_channels == spec.out_channels


def _static_pads(site: Site, support: Support) -> tuple[tuple[int, int], ...]:
    return pads_for(site, support, site.input_shape[1:])

"""Operators that are not linear and so run as branches: chains with norms inside, max-pooling."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lwdc.candidates.base import DoesNotFit, Operator, check_padding, needs_space, scaled_like
from lwdc.candidates.chain import Chain, convolution
from lwdc.candidates.fixed import pooling_support, refuse_itself
from lwdc.candidates.registry import register_candidate
from lwdc.candidates.separable import separable, separable_layers
from lwdc.candidates.tucker import tucker
from lwdc.geometry import Pad, Support, own_support, pads_for
from lwdc.sites import Site


class Normed(Operator):
    """A chain with batch norms and ReLUs between its layers; the network's own norm follows the site.

    ``between`` holds what stands behind each layer of ``chain`` but the last; it ends with a norm and a ReLU.
    Convolutions in there begin as the identity.
    """

    def __init__(self, chain: Chain, between: Sequence[nn.Sequential]) -> None:
        super().__init__(chain.site, None)
        self.chain = chain  # knows its own convolutions, and so their kernel as if nothing stood between
        layers: list[nn.Module] = []
        waiting = iter(between)
        for module in chain.layers:
            layers.append(module)
            if module in chain.convolutions[:-1]:
                layers.append(next(waiting))
        chain.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.chain.layers(x)

    def inherit(self, weight: Tensor) -> float:
        """What the chain takes over, as if there were no norm and no ReLU between; so is the error."""
        for conv in self._inserted():
            nn.init.dirac_(conv.weight, conv.groups)
        return self.chain.inherit(weight)

    def reset(self, norm: float) -> None:
        """The norm and the ReLU give the last layer a second moment of 1/2, so its weight carries ``norm``."""
        convolutions: list[Any] = [*self._inserted(), *self.chain.convolutions]
        for conv in convolutions:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
        with torch.no_grad():
            last = convolutions[-1].weight
            last.mul_(scaled_like(last, norm * 2**0.5))

    def release(self, bias: Tensor | None) -> nn.Module:
        del bias  # The site's bias belongs to its linear operators.
        return self.chain.layers

    def _inserted(self) -> list[nn.Conv1d | nn.Conv2d]:
        own = self.chain.convolutions
        return [m for m in self.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d)) and m not in own]


@register_candidate("separable_norm")
def separable_norm(site: Site, *, size: int | None = None, repeats: int = 1) -> Operator:
    """Depthwise, batch norm, ReLU, pointwise, as in MobileNet; the network's own norm follows the site.

    ``repeats: 2`` is the separable convolution of DARTS (Liu et al., 2019), whose first ReLU and last norm are the
    network's own: depthwise, pointwise, batch norm, ReLU, and that once more at stride 1 to the site's width.
    It begins as the same function as with one repeat. ``size`` is that of the depthwise kernels.
    """
    needs_space(site)
    if repeats not in (1, 2):
        raise DoesNotFit(f"repeats={repeats} is neither 1 nor 2")
    chain = separable(site, size=size)
    between = [batch_norm(site, site.in_channels), nn.ReLU()]
    if repeats == 2:
        assert chain.support is not None
        second = _at_stride_one(site, chain.support)
        pointwise, depthwise = separable_layers(second)[::-1]
        between = [
            *convolution(second, own_support(second), pointwise),
            *between,
            *convolution(second, own_support(second), depthwise),
        ]
    return Normed(chain, [nn.Sequential(*between)])


def _at_stride_one(site: Site, support: Support) -> Site:
    """A convolution as on ``support`` that follows the site, without its stride, and keeps channels and size.

    Padded so that the tap in the middle, which ``dirac_`` sets, reads the pixel itself.
    """
    shapes = [(site.in_channels, *output[1:]) for _, output in site.calls]
    before = [k // 2 * d for k, d in zip(support.count, support.step, strict=True)]
    whole = [(k - 1) * d for k, d in zip(support.count, support.step, strict=True)]
    second = dataclasses.replace(
        site,
        out_channels=site.in_channels,
        kernel_size=support.count,
        stride=(1,) * site.dims,
        dilation=support.step,
        padding=tuple((a, total - a) for a, total in zip(before, whole, strict=True)),
        same=False,
        calls=tuple((shape, shape) for shape in shapes),
    )
    check_padding(second, own_support(second))
    return second


@register_candidate("squeezed")
def squeezed(site: Site, *, ratio: float) -> Operator:
    """1x1 to fewer channels, the site's kernel, 1x1 to full width, with batch norm and ReLU between.

    The bottleneck of He et al., "Deep residual learning for image recognition", 2016; the network's own norm
    follows the site. Inner widths are those of ``tucker``: ``ratio`` times the input and output channels.
    """
    chain = tucker(site, ratio=ratio)
    widths = [conv.out_channels for conv in chain.convolutions[:-1]]
    return Normed(chain, [nn.Sequential(batch_norm(site, width), nn.ReLU()) for width in widths])


@register_candidate("max_pool")
class MaxPool(Operator):
    """Maximum over the site's own window, or one of ``size``."""

    def __init__(self, site: Site, *, size: int | None = None) -> None:
        support = pooling_support(site, size)
        refuse_itself(site, "max_pool", support)
        if site.in_channels != site.out_channels:
            raise DoesNotFit(f"it keeps the channels, the site maps {site.in_channels} to {site.out_channels}")
        pads = pads_for(site, support, site.input_shape[1:])
        if any(max(a, b) >= n for (a, b), n in zip(pads, support.count, strict=True)):
            raise DoesNotFit(f"padding of {pads} leaves windows without a pixel")
        super().__init__(site, None)
        pool_class = nn.MaxPool2d if site.dims == 2 else nn.MaxPool1d
        own = not site.same and all(a == b and 0 <= 2 * a <= n for (a, b), n in zip(pads, support.count, strict=True))
        if own:
            self.module: nn.Module = pool_class(support.count, site.stride, tuple(a for a, _ in pads))
        else:
            fill = Pad(site, support, (True,) * site.dims, value=float("-inf"))
            self.module = nn.Sequential(fill, pool_class(support.count, site.stride))

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)

    def inherit(self, weight: Tensor) -> float:
        """Nothing is taken over; as if the kernel were lost."""
        del weight
        return 1.0

    def reset(self, norm: float) -> None:
        del norm  # There is nothing to draw.

    def release(self, bias: Tensor | None) -> nn.Module:
        del bias  # The site's bias belongs to its linear operators.
        return self.module


def batch_norm(site: Site, channels: int) -> nn.Module:
    """A batch norm for maps like the site's."""
    norm_class = nn.BatchNorm2d if site.dims == 2 else nn.BatchNorm1d
    return norm_class(channels)

"""Shift convolution: every input channel moved by one of the site's taps, then a 1x1 convolution."""

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

from lwdc.candidates.base import DoesNotFit, Operator, check_padding, needs_space, own_bias, scaled_like
from lwdc.candidates.fixed import output_sizes
from lwdc.candidates.registry import register_candidate
from lwdc.geometry import own_support, pad, pads_for
from lwdc.sites import Site


@register_candidate("shift")
class Shifted(Operator):
    """The channels of a group are divided evenly among the taps, in order; the 1x1 convolution is the only weight.

    Wu et al., "Shift: a zero FLOP, zero parameter alternative to spatial convolutions", 2018. There the channels
    left over by an even division stay where they are; here they are spread over the taps.
    """

    pattern: Tensor

    def __init__(self, site: Site) -> None:
        needs_space(site)
        channels, taps = site.in_channels // site.groups, math.prod(site.kernel_size)
        if taps == 1:
            raise DoesNotFit("there is one tap: nothing to shift")
        if channels == 1:
            raise DoesNotFit("one channel a group cannot be divided among the taps")
        super().__init__(site, own_support(site), site.groups)
        check_padding(site, own_support(site))
        given = divide(channels, taps)
        pointwise = nn.Conv2d if site.dims == 2 else nn.Conv1d
        conv = pointwise(site.in_channels, site.out_channels, 1, groups=site.groups, bias=False)
        self.layers = nn.Sequential(Shift(site, given), conv)
        self.register_buffer("pattern", torch.eye(taps)[given].view(channels, *site.kernel_size), persistent=False)

    @property
    def conv(self) -> nn.Conv1d | nn.Conv2d:
        """The 1x1 convolution."""
        conv = self.layers[1]
        assert isinstance(conv, (nn.Conv1d, nn.Conv2d))
        return conv

    def compact_kernel(self) -> Tensor:
        return self.conv.weight * self.pattern

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def inherit(self, weight: Tensor) -> float:
        """Of every input channel the column at its tap: the Frobenius optimum."""
        with torch.no_grad():
            self.conv.weight.copy_((weight * self.pattern).flatten(2).sum(2).view_as(self.conv.weight))
        return self._error(weight)

    def reset(self, norm: float) -> None:
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="linear")
        with torch.no_grad():
            self.conv.weight.mul_(scaled_like(self.conv.weight, norm))

    def release(self, bias: Tensor | None) -> nn.Module:
        if bias is not None:
            self.conv.bias = own_bias(bias)
        return self.layers


def divide(channels: int, taps: int) -> list[int]:
    """The tap of each channel: every tap equally often, but for one; fewer channels than taps lie evenly among them."""
    return [(2 * c + 1) * taps // (2 * channels) for c in range(channels)]


class Shift(nn.Module):
    """Reads each channel at its tap, by padding and slicing alone; ``given`` holds the taps of a group's channels."""

    def __init__(self, site: Site, given: list[int]) -> None:
        super().__init__()
        self.site = site
        offsets = list(itertools.product(*(range(k) for k in site.kernel_size)))
        self.taps = [offsets[tap] for tap in sorted(set(given))]
        self.counts = [given.count(tap) for tap in sorted(set(given))]

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C_in, *sizes)`` to ``(B, C_in, *output sizes)``."""
        site, sizes = self.site, x.shape[2:]
        outputs = output_sizes(site, sizes)
        x = pad(x, pads_for(site, own_support(site), sizes), site.padding_mode)
        split = x.unflatten(1, (site.groups, site.in_channels // site.groups))
        read = []
        for part, tap in zip(split.split(self.counts, 2), self.taps, strict=True):
            at: tuple[Any, ...] = tuple(
                slice(i * d, i * d + (n - 1) * s + 1, s)
                for i, d, n, s in zip(tap, site.dilation, outputs, site.stride, strict=True)
            )
            read.append(part[(..., *at)])
        return torch.cat(read, 2).flatten(1, 2)

    def extra_repr(self) -> str:
        return f"{len(self.taps)} taps of {self.site.kernel_size}, stride={self.site.stride}"

"""Geometry: which input pixels an operator's taps read at a site, and the padding that puts them there.

Every linear operator at a site samples the input on a lattice. With the lattice given relative to the
site's own first tap, one formula gives the padding of any stand-in: a smaller kernel crops or pads
less, a wider one pads more, and the sampling phase is that of the site.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lwdc.sites import Site, same_padding

Pads = tuple[tuple[int, int], ...]  # (before, after) per spatial axis; negative crops


@dataclasses.dataclass(frozen=True)
class Support:
    """Taps per spatial axis: ``start + step * i`` for ``i < count``, in pixels from the site's first tap."""

    start: tuple[int, ...]
    step: tuple[int, ...]
    count: tuple[int, ...]

    @property
    def last(self) -> tuple[int, ...]:
        """Position of the last tap per axis."""
        return tuple(a + s * (n - 1) for a, s, n in zip(self.start, self.step, self.count, strict=True))

    def slices_of(self, smaller: "Support") -> tuple[Any, ...]:
        """Where the taps of ``smaller`` lie among the taps of this support: a slice per axis."""
        found = []
        for start, step, count, s_start, s_step, s_count in zip(
            self.start, self.step, self.count, smaller.start, smaller.step, smaller.count, strict=True
        ):
            first, stride = (s_start - start) // step, max(s_step // step, 1)
            assert (first >= 0 and first + stride * (s_count - 1) < count) or s_count == 0
            found.append(slice(first, first + stride * (s_count - 1) + 1 if s_count else first, stride))
        return tuple(found)


def own_support(site: Site) -> Support:
    """The taps of the site's original convolution."""
    return Support((0,) * site.dims, site.dilation, site.kernel_size)


def centred_support(site: Site, size: Sequence[int], dilation: Sequence[int]) -> Support:
    """A ``size`` kernel with ``dilation``, centred on the site's own (rounded towards the first tap)."""
    start = tuple(
        ((k - 1) * d - (n - 1) * step) // 2
        for k, d, n, step in zip(site.kernel_size, site.dilation, size, dilation, strict=True)
    )
    return Support(start, tuple(dilation), tuple(size))


def union(supports: Sequence[Support]) -> Support:
    """The smallest lattice that holds every tap of all ``supports``; empty ones are ignored."""
    held = [s for s in supports if all(s.count)]
    axes = []
    for axis in range(len(held[0].start)):
        low = min(s.start[axis] for s in held)
        high = max(s.last[axis] for s in held)
        steps = [s.step[axis] for s in held if s.count[axis] > 1] + [s.start[axis] - low for s in held]
        step = math.gcd(*steps) or held[0].step[axis]
        axes.append((low, step, (high - low) // step + 1))
    return Support(*(tuple(axis[part] for axis in axes) for part in range(3)))


def pads_for(site: Site, support: Support, sizes: Sequence[int]) -> Pads:
    """Padding that makes a kernel on ``support`` sample what the site would, for inputs of these sizes."""
    base = same_padding(site, tuple(sizes)) if site.same else site.padding
    return tuple(
        (before - start, after + last - (k - 1) * d)
        for (before, after), start, last, k, d in zip(
            base, support.start, support.last, site.kernel_size, site.dilation, strict=True
        )
    )


def pad(x: Tensor, pads: Pads, mode: str = "zeros", value: float = 0.0) -> Tensor:
    """Pad ``x`` ``(B, C, *sizes)`` per axis; negative entries crop. ``value`` fills in mode "zeros"."""
    if not any(any(p) for p in pads):
        return x
    crops = [min(p, 0) for pair in reversed(pads) for p in pair]
    grows = [max(p, 0) for pair in reversed(pads) for p in pair]
    if mode == "zeros":
        return F.pad(x, [c + g for c, g in zip(crops, grows, strict=True)], value=value)
    # In this order: what is mirrored or repeated is the map's own border, not the cropped one's.
    x = F.pad(x, grows, mode=mode) if any(grows) else x
    return F.pad(x, crops) if any(crops) else x


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, site: Site, support: Support, groups: int) -> Tensor:
    """The site's convolution with another weight ``(C_out, C_in / groups, *support.count)``.

    ``x`` is ``(B, C_in, *sizes)``, or ``(B, ..., C_in)`` at a Linear layer; stride and padding mode are the site's.
    """
    if site.dims == 0:
        return block_linear(x, weight, bias, groups)
    pads = pads_for(site, support, x.shape[2:])
    padding: tuple[int, ...] = tuple(before for before, _ in pads)
    if site.padding_mode != "zeros" or any(a != b or a < 0 for a, b in pads):
        x, padding = pad(x, pads, site.padding_mode), (0,) * site.dims
    conv = F.conv2d if site.dims == 2 else F.conv1d
    return conv(x, weight, bias, site.stride, padding, support.step, groups)


def block_linear(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    """``(..., C_in)`` times a block-diagonal ``weight`` ``(C_out, C_in / groups)``, transposed."""
    if groups == 1:
        return F.linear(x, weight, bias)
    blocks = weight.unflatten(0, (groups, -1))
    y = torch.einsum("...gi,goi->...go", x.unflatten(-1, (groups, -1)), blocks).flatten(-2)
    return y if bias is None else y + bias.to(y.dtype)


class Pad(nn.Module):
    """Pads (or crops) so that what follows samples as the site did; "same" padding follows each input's size."""

    def __init__(self, site: Site, support: Support, axes: Sequence[bool], value: float = 0.0) -> None:
        super().__init__()
        self.site, self.support, self.axes, self.value = site, support, tuple(axes), value

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, *sizes)`` padded on the axes asked for."""
        pads = pads_for(self.site, self.support, x.shape[2:])
        chosen = tuple(p if on else (0, 0) for p, on in zip(pads, self.axes, strict=True))
        return pad(x, chosen, self.site.padding_mode if self.value == 0 else "zeros", self.value)

    def extra_repr(self) -> str:
        if self.site.same:
            return f"same, support={self.support}"
        return f"{pads_for(self.site, self.support, self.site.input_shape[1:])}, {self.site.padding_mode}"

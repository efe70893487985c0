"""WSNet: every filter is a window on one condensed filter, at places that are set once and not learned.

Jin et al., "WSNet: Compact and Efficient Networks Through Weight Sampling", ICML 2018. That filters are
sampled from one condensed filter, in space and along channels, and share products, is the paper's; the rest is from
memory or from its relatives. In 1-D the windows of neighbouring filters begin ``step`` taps apart and stored channels
are repeated. In 2-D they lie on a grid and channels are read from a ring, as in the filter map of one of its authors.
How a ratio is split over the axes, and inheritance, are ours; sampling more densely, with a learned 1x1, is left out.
"""

import dataclasses
import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lwdc.candidates.base import DoesNotFit, Operator, check_padding, needs_space, own_bias
from lwdc.candidates.epitome import Sampled
from lwdc.candidates.registry import register_candidate
from lwdc.candidates.sampling import Fold, Starts, TiedConv, sample
from lwdc.errors import SpaceError
from lwdc.geometry import own_support, pad, pads_for
from lwdc.sites import Site


class Windows(Sampled):
    """Filters that are windows on a condensed filter; ``into`` says which stored channel each input channel meets."""

    def __init__(self, site: Site, into: Starts | None, conv: TiedConv) -> None:
        super().__init__(site, own_support(site), site.groups)
        self.layers = nn.Sequential(conv) if into is None else nn.Sequential(Fold(into, site.groups, site.dims), conv)
        self._into = into

    @property
    def conv(self) -> TiedConv:
        """What computes with the condensed filter."""
        conv = self.layers[-1]
        assert isinstance(conv, TiedConv)
        return conv

    def epitome(self) -> nn.Parameter:
        return self.conv.weight

    def compact_kernel(self) -> Tensor:
        kernel = self.conv.kernel()
        return kernel if self._into is None else sample(kernel, 1, self._into)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def release(self, bias: Tensor | None) -> nn.Module:
        if bias is not None:
            self.conv.bias = own_bias(bias)
        return self.layers


class ProductMap(TiedConv):
    """A 1-D convolution whose filters are windows ``step`` taps apart on one condensed filter, without forming them.

    The product map ``P[u, t]``, the condensed filter's tap u times the input at t, is one 1x1 convolution. A filter's
    output is a sum of P along a diagonal, and so the difference of two running sums: no multiplication more.
    """

    reuses = True

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C_in, length)`` to ``(B, C_out, length_out)``."""
        if self.training and torch.is_grad_enabled():
            return super().forward(x)  # the same function: the map of a batch and its gradients weigh far more
        site, g = self.site, self.site.groups
        x = pad(x, pads_for(site, own_support(site), x.shape[2:]), site.padding_mode)
        (k,), (stride,), (dilation,) = site.kernel_size, site.stride, site.dilation
        taps, filters = self.weight.shape[2], site.out_channels // g
        reach = taps - k  # where the last window begins
        step = reach // max(filters - 1, 1)
        outputs = (x.shape[2] - dilation * (k - 1) - 1) // stride + 1
        weight = self.weight.transpose(1, 2).flatten(0, 1).unsqueeze(2).to(x.dtype)  # (g * taps, M, 1)
        product = F.conv1d(x, weight, groups=g).unflatten(1, (g, taps))
        # Sheared, so that a diagonal becomes a column: rows as long as before but `dilation` longer.
        margin = reach * dilation
        # Running sums grow, and their differences do not: they need the digits of full precision.
        rows = F.pad(product.to(torch.promote_types(product.dtype, torch.float32)), (margin, margin))
        width = rows.shape[3] + dilation
        sheared = F.pad(rows.flatten(2), (0, taps * dilation)).view(*rows.shape[:3], width)
        columns = margin + (outputs - 1) * stride + 1
        sums = F.pad(sheared[..., :columns].cumsum(2), (0, 0, 1, 0))
        first = torch.arange(filters, device=x.device) * step
        windows = sums.index_select(2, first + k) - sums.index_select(2, first)  # (B, g, filters, columns)
        # Filter n is read `n * step * dilation` columns further left: sheared back.
        width = columns - step * dilation
        kept = windows.flatten(2)[..., margin : margin + filters * width].unflatten(2, (filters, width))
        y = kept[..., : (outputs - 1) * stride + 1 : stride].flatten(1, 2).to(product.dtype)
        return y if self.bias is None else y + self.bias.to(y.dtype).view(-1, 1)


@register_candidate("wsnet")
def wsnet(site: Site, *, ratio: float | None = None, step: int | None = None, repeat: int = 1) -> Operator:
    """A condensed filter ``ratio`` times smaller than the kernel; or windows ``step`` taps apart.

    Every stored channel is read by ``repeat`` input channels. In 1-D ``ratio`` repeats as few of them as bring the
    condensed filter close to its size, in 2-D none. Groups of the site have a condensed filter each.
    """
    if (ratio is None) == (step is None):
        raise SpaceError("wsnet takes either ratio, or step and repeat: how its windows lie on the condensed filter.")
    if ratio is not None and not ratio > 1:
        raise SpaceError(f"wsnet's ratio must be above 1, found {ratio}.")
    if repeat < 1 or (step is not None and step < 1):
        raise SpaceError(f"wsnet's step and repeat are at least 1, found step={step} and repeat={repeat}.")
    if ratio is not None and repeat > 1:
        raise SpaceError("wsnet takes repeat with step alone: a ratio says by itself how often channels repeat.")
    needs_space(site)
    if step is not None:
        _refuse_gaps(step, max(site.kernel_size))
    check_padding(site, own_support(site))
    return _lines(site, ratio, step, repeat) if site.dims == 1 else _planes(site, ratio, step, repeat)


def _lines(site: Site, ratio: float | None, step: int | None, repeat: int) -> Windows:
    (k,), g = site.kernel_size, site.groups
    filters, channels = site.out_channels // g, site.in_channels // g
    stored = math.ceil(channels / repeat)
    if ratio is not None:
        step, stored = _fill(filters * channels * k / ratio, filters, channels, k)
        if stored < 1:
            raise DoesNotFit(f"no condensed filter for {filters} x {channels} x {k} is {ratio} times smaller")
    assert step is not None
    taps = k + (filters - 1) * step
    _refuse_larger(taps * stored, filters * channels * k, [stored, taps])
    narrow = dataclasses.replace(site, in_channels=g * stored)
    rows = Starts(filters, 1, 1, "fixed")
    columns = Starts(stored, stored, stored, "fixed", copies=filters)
    places = Starts(filters * k, taps, k, "fixed", copies=1)
    shared = sum(shape[1] + 2 * max(site.padding[0]) for shape, _ in site.calls) * taps
    formed = sum(shape[1] for _, shape in site.calls) * filters * k
    kind = ProductMap if shared < formed and filters > 1 else TiedConv
    conv = kind(narrow, torch.zeros(g, stored, taps), rows, columns, [places])
    return Windows(site, _repeated(channels, stored), conv)


def _fill(room: float, filters: int, channels: int, k: int) -> tuple[int, int]:
    """Step and stored channels of the largest condensed filter with at most ``room`` entries.

    Of the two steps between which all channels would just find room; one apart where not even that saves enough.
    """
    widest = min(k, max(1, math.floor((room / channels - k) / max(filters - 1, 1))))
    steps = [widest, min(k, widest + 1)]
    stored = [min(channels, math.floor(room / (k + (filters - 1) * step))) for step in steps]
    sizes = [n * (k + (filters - 1) * step) for step, n in zip(steps, stored, strict=True)]
    best = sizes.index(max(sizes))
    return steps[best], stored[best]


def _planes(site: Site, ratio: float | None, step: int | None, repeat: int) -> Windows:
    """Filters on a grid of windows, as far apart as the ratio lets them, and ``turns`` of the ring of channels.

    Where the last row of the grid is not full, what it alone would read is stored for nothing.
    """
    g, k = site.groups, site.kernel_size
    filters, channels = site.out_channels // g, site.in_channels // g
    stored, whole = math.ceil(channels / repeat), filters * channels * math.prod(k)
    apart = [step] if step is not None else list(range(max(*k, 2) - 1, 0, -1))
    for widest, turns in itertools.product(apart, range(1, min(filters, stored) + 1)):
        steps = [min(widest, n) for n in k]
        counts = _grid(math.ceil(filters / turns), k)
        shape = [stored, *(n + (count - 1) * s for n, count, s in zip(k, counts, steps, strict=True))]
        if ratio is None or math.prod(shape) * ratio <= whole:
            break
    else:
        raise DoesNotFit(f"no condensed filter for {filters} x {channels} x {list(k)} is {ratio} times smaller")
    _refuse_larger(math.prod(shape), whole, shape)
    order = torch.arange(filters)
    high, wide = counts
    down, right, turn = order // wide % high * steps[0], order % wide * steps[1], order // (high * wide)
    rows = Starts(filters, 1, 1, "fixed")
    columns = Starts(stored, stored, stored, "fixed", wrap=turns > 1, begin=(turn * stored // turns)[None])
    places = [
        Starts(filters * n, extent, n, "fixed", begin=begin[:, None])
        for n, extent, begin in zip(k, shape[1:], (down, right), strict=True)
    ]
    narrow = dataclasses.replace(site, in_channels=g * stored)
    conv = TiedConv(narrow, torch.zeros(g, *shape), rows, columns, places)
    return Windows(site, _repeated(channels, stored), conv)


def _repeated(channels: int, stored: int) -> Starts | None:
    if channels == stored:
        return None
    return Starts(channels, stored, stored, "fixed", begin=torch.zeros(math.ceil(channels / stored)))


def _grid(count: int, kernel_size: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of at least ``count`` windows, as square as may be; along the axis that has taps."""
    if kernel_size[0] == 1 < kernel_size[1]:
        return 1, count
    if kernel_size[1] == 1 < kernel_size[0]:
        return count, 1
    wide = math.ceil(math.sqrt(count))
    return math.ceil(count / wide), wide


def _refuse_gaps(step: int, taps: int) -> None:
    if step > taps:
        raise DoesNotFit(f"windows of {taps} taps that begin {step} apart leave entries that none of them reads")


def _refuse_larger(size: int, whole: int, shape: list[int]) -> None:
    if size >= whole:
        raise DoesNotFit(f"a condensed filter of {' x '.join(map(str, shape))} is no smaller than the kernel's {whole}")

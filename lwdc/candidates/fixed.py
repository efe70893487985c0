"""Operators without weights that are linear: skip, average pooling and zero."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lwdc.candidates.base import DoesNotFit, Operator, check_padding, needs_space, own_bias
from lwdc.candidates.registry import register_candidate
from lwdc.geometry import Pad, Support, centred_support, own_support, pad, pads_for
from lwdc.sites import Site


class Fixed(Operator):
    """A kernel that is not trained, and the module that computes the same without a kernel.

    The kernel is ``value`` times a ``pattern`` of zeros and ones; by default all ones.
    """

    pattern: Tensor

    def __init__(
        self,
        site: Site,
        support: Support,
        groups: int,
        value: float,
        module: nn.Module,
        pattern: Tensor | None = None,
    ) -> None:
        super().__init__(site, support, groups)
        check_padding(site, support)
        shape = (site.out_channels, site.in_channels // groups, *support.count)
        self.register_buffer("pattern", torch.ones(shape) if pattern is None else pattern.view(shape), persistent=False)
        self.value = value  # apart from the pattern, so that no cast rounds it
        self.module = module

    def compact_kernel(self) -> Tensor:
        return self.pattern if self.value == 1 else self.pattern * self.value

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)

    def inherit(self, weight: Tensor) -> float:
        return self._error(weight)

    def reset(self, norm: float) -> None:
        del norm  # There is nothing to draw.

    def release(self, bias: Tensor | None) -> nn.Module:
        return self.module if bias is None else nn.Sequential(self.module, Bias(bias, self.site.dims))


class Bias(nn.Module):
    """Adds one number per channel to ``(B, C, *sizes)`` with so many spatial axes, or to ``(B, ..., C)`` with none."""

    def __init__(self, bias: Tensor, dims: int) -> None:
        super().__init__()
        self.dims = dims
        self.bias = own_bias(bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.to(x.dtype).view(-1, *(1,) * self.dims)


class Subsample(nn.Module):
    """The site's input at the taps of a one-tap kernel: cropped or padded, then strided.

    A copy also where nothing is left out: what follows may write in place, and the input may have other readers.
    """

    def __init__(self, site: Site, support: Support) -> None:
        super().__init__()
        self.site, self.support = site, support

    def forward(self, x: Tensor) -> Tensor:
        x = pad(x, pads_for(self.site, self.support, x.shape[2:]), self.site.padding_mode)
        index: tuple[Any, ...] = tuple(slice(None, None, s) for s in self.site.stride)
        return x[(..., *index)].clone()


class Widen(nn.Module):
    """Zero channels around those of each group: ``before`` of them, and ``behind``."""

    def __init__(self, groups: int, before: int, behind: int, dims: int) -> None:
        super().__init__()
        self.groups, self.before, self.behind, self.dims = groups, before, behind, dims

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C, *sizes)`` to ``(..., C + groups * (before + behind), *sizes)``, with ``dims`` sizes."""
        axis = x.dim() - self.dims  # of the channels within a group
        split = x.unflatten(axis - 1, (self.groups, x.shape[axis - 1] // self.groups))
        return F.pad(split, [0, 0] * self.dims + [self.before, self.behind]).flatten(axis - 1, axis)

    def extra_repr(self) -> str:
        return f"{self.before} before, {self.behind} behind, groups={self.groups}"


class Zeros(nn.Module):
    """Zeros in the shape of the site's output."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site = site

    def forward(self, x: Tensor) -> Tensor:
        if self.site.dims == 0:
            return x.new_zeros(*x.shape[:-1], self.site.out_channels)
        return x.new_zeros(x.shape[0], self.site.out_channels, *output_sizes(self.site, x.shape[2:]))


@register_candidate("skip")
def skip(site: Site) -> Operator:
    """The input itself, strided where the site is (skip_connect in LWDC, Appendix A).

    Further output channels are zero, equally many before and behind, an odd one behind: option A of He et al.,
    "Deep residual learning for image recognition", 2016. At a site with groups so in each of them, which is ours.
    """
    added, g = site.out_channels - site.in_channels, site.groups
    if added < 0:
        raise DoesNotFit(f"it leaves out no channels, the site maps {site.in_channels} to {site.out_channels}")
    support = centred_support(site, (1,) * site.dims, site.dilation)
    taken = Subsample(site, support)
    if added == 0:
        return Fixed(site, support, site.in_channels, 1.0, taken)
    before = added // g // 2
    behind = added // g - before
    pattern = F.pad(torch.eye(site.in_channels // g), (0, 0, before, behind)).repeat(g, 1)
    return Fixed(site, support, g, 1.0, nn.Sequential(taken, Widen(g, before, behind, site.dims)), pattern)


@register_candidate("avg_pool")
def avg_pool(site: Site, *, size: int | None = None) -> Operator:
    """Mean over the site's own window, or one of ``size``; padding counts, as it does for a kernel."""
    support = pooling_support(site, size)
    if site.in_channels != site.out_channels:
        raise DoesNotFit(f"it keeps the channels, the site maps {site.in_channels} to {site.out_channels}")
    refuse_itself(site, "avg_pool", support)
    return Fixed(site, support, site.in_channels, 1.0 / math.prod(support.count), _average(site, support))


@register_candidate("zero")
def zero(site: Site) -> Operator:
    """Nothing: the site's output is its bias."""
    support = Support((0,) * site.dims, site.dilation, (0,) * site.dims)
    return Fixed(site, support, site.groups, 0.0, Zeros(site))


def pooling_support(site: Site, size: int | None) -> Support:
    """The window of a pooling operator at the site. Raises ``DoesNotFit`` where there is none."""
    needs_space(site)
    if size is None and any(d != 1 for d, k in zip(site.dilation, site.kernel_size, strict=True) if k > 1):
        raise DoesNotFit("pooling windows are not dilated; give its size")
    taps = site.kernel_size if size is None else (size,) * site.dims
    if min(taps) < 1 or math.prod(taps) == 1:
        raise DoesNotFit(f"a window of {taps} pools nothing")
    return centred_support(site, taps, (1,) * site.dims)


def refuse_itself(site: Site, kind: str, support: Support) -> None:
    """Raise ``DoesNotFit`` where the site is that pooling layer already."""
    if site.kind == kind and support == own_support(site):
        raise DoesNotFit("it is the original")


def output_sizes(site: Site, sizes: Sequence[int]) -> list[int]:
    """The site's output sizes for an input of ``sizes``."""
    pads = pads_for(site, own_support(site), sizes)
    return [
        (n + before + after - d * (k - 1) - 1) // s + 1
        for n, (before, after), d, k, s in zip(sizes, pads, site.dilation, site.kernel_size, site.stride, strict=True)
    ]


def _average(site: Site, support: Support) -> nn.Module:
    pads = pads_for(site, support, site.input_shape[1:])
    pool_class = nn.AvgPool2d if site.dims == 2 else nn.AvgPool1d
    own = site.padding_mode == "zeros" and not site.same
    if own and all(a == b and 0 <= 2 * a <= n for (a, b), n in zip(pads, support.count, strict=True)):
        padding = tuple(a for a, _ in pads)
        return pool_class(support.count, site.stride, padding, count_include_pad=True)  # type: ignore[arg-type]
    return nn.Sequential(Pad(site, support, (True,) * site.dims), pool_class(support.count, site.stride))  # type: ignore[arg-type]

"""Operators without weights that are linear: skip, average pooling and zero."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from lwdc.candidates.base import DoesNotFit, Operator, check_padding
from lwdc.candidates.registry import register_candidate
from lwdc.geometry import Pad, Support, centred_support, own_support, pad, pads_for
from lwdc.sites import Site


class Fixed(Operator):
    """A kernel that is not trained, and the module that computes the same without a kernel."""

    pattern: Tensor

    def __init__(self, site: Site, support: Support, groups: int, value: float, module: nn.Module) -> None:
        super().__init__(site, support, groups)
        check_padding(site, support)
        shape = (site.out_channels, site.in_channels // groups, *support.count)
        self.register_buffer("pattern", torch.ones(shape), persistent=False)
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
        self.bias = nn.Parameter(bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.view(-1, *(1,) * self.dims)


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


class Zeros(nn.Module):
    """Zeros in the shape of the site's output."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site = site

    def forward(self, x: Tensor) -> Tensor:
        site, sizes = self.site, x.shape[2:]
        if site.dims == 0:
            return x.new_zeros(*x.shape[:-1], site.out_channels)
        pads = pads_for(site, own_support(site), sizes)
        outputs = [
            (n + before + after - d * (k - 1) - 1) // s + 1
            for n, (before, after), d, k, s in zip(
                sizes, pads, site.dilation, site.kernel_size, site.stride, strict=True
            )
        ]
        return x.new_zeros(x.shape[0], site.out_channels, *outputs)


@register_candidate("skip")
def skip(site: Site) -> Operator:
    """The input itself, strided where the site is (skip_connect in LWDC, Appendix A)."""
    _needs_equal_channels(site)
    support = centred_support(site, (1,) * site.dims, site.dilation)
    return Fixed(site, support, site.in_channels, 1.0, Subsample(site, support))


@register_candidate("avg_pool")
def avg_pool(site: Site, *, size: int | None = None) -> Operator:
    """Mean over the site's own window, or one of ``size``; padding counts, as it does for a kernel."""
    support = pooling_support(site, size)
    _needs_equal_channels(site)
    refuse_itself(site, "avg_pool", support)
    return Fixed(site, support, site.in_channels, 1.0 / math.prod(support.count), _average(site, support))


@register_candidate("zero")
def zero(site: Site) -> Operator:
    """Nothing: the site's output is its bias."""
    support = Support((0,) * site.dims, site.dilation, (0,) * site.dims)
    return Fixed(site, support, site.groups, 0.0, Zeros(site))


def pooling_support(site: Site, size: int | None) -> Support:
    """The window of a pooling operator at the site. Raises ``DoesNotFit`` where there is none."""
    if site.dims == 0:
        raise DoesNotFit("a Linear layer has no taps")
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


def _average(site: Site, support: Support) -> nn.Module:
    pads = pads_for(site, support, site.input_shape[1:])
    pool_class = nn.AvgPool2d if site.dims == 2 else nn.AvgPool1d
    own = site.padding_mode == "zeros" and not site.same
    if own and all(a == b and 0 <= 2 * a <= n for (a, b), n in zip(pads, support.count, strict=True)):
        padding = tuple(a for a, _ in pads)
        return pool_class(support.count, site.stride, padding, count_include_pad=True)  # type: ignore[arg-type]
    return nn.Sequential(Pad(site, support, (True,) * site.dims), pool_class(support.count, site.stride))  # type: ignore[arg-type]


def _needs_equal_channels(site: Site) -> None:
    if site.in_channels != site.out_channels:
        raise DoesNotFit(f"it keeps the channels, the site maps {site.in_channels} to {site.out_channels}")

"""Partial convolution: the site's kernel on some of the channels, the others pass through, as in FasterNet."""

import torch
from torch import Tensor, nn

from lwdc.candidates.base import DoesNotFit, Operator, check_padding, needs_space, scaled_like
from lwdc.candidates.chain import Layer, convolution
from lwdc.candidates.fixed import Bias, Subsample
from lwdc.candidates.registry import register_candidate
from lwdc.geometry import Support, centred_support, own_support, union
from lwdc.sites import Site


@register_candidate("partial")
class Partial(Operator):
    """The first ``C / ratio`` channels are convolved, the others are taken as by ``skip``.

    Chen et al., "Run, don't walk: chasing higher FLOPS for faster neural networks", 2023. A site's own groups
    are each split so, and a stride subsamples what passes through, which is ours.
    """

    identity: Tensor

    def __init__(self, site: Site, *, ratio: int = 4) -> None:
        needs_space(site)
        if site.in_channels != site.out_channels:
            raise DoesNotFit(f"it keeps the channels, the site maps {site.in_channels} to {site.out_channels}")
        if ratio < 2:
            raise DoesNotFit(f"ratio={ratio} leaves no channel to pass through")
        channels = site.in_channels // site.groups
        if channels < ratio:
            raise DoesNotFit(f"1 / {ratio} of {channels} channels is none")
        own, centre = own_support(site), centred_support(site, (1,) * site.dims, site.dilation)
        support = union([own, centre])
        super().__init__(site, support, site.groups)
        check_padding(site, support)
        self.layer = PartialConv(site, channels // ratio, centre)
        self._centre = centre
        identity = torch.eye(channels).repeat(site.groups, 1)
        identity.view(site.groups, channels, channels)[:, : channels // ratio] = 0
        self.register_buffer("identity", identity, persistent=False)  # (C, C / groups)

    def compact_kernel(self) -> Tensor:
        assert self.support is not None
        weight, n, g = self.layer.weight, self.layer.convolved, self.site.groups
        own = self.support.slices_of(own_support(self.site))
        kernel = weight.new_zeros(self.site.out_channels, self.identity.shape[1], *self.support.count)
        kernel[(..., *(at.start for at in self.support.slices_of(self._centre)))] = self.identity
        kernel.unflatten(0, (g, -1))[(slice(None), slice(n), slice(n), *own)] = weight.unflatten(0, (g, n))
        return kernel

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def inherit(self, weight: Tensor) -> float:
        """The entries kept, which is the optimum; what passes through is not trained and may lie farther than zero."""
        n = self.layer.convolved
        rows = weight.detach().unflatten(0, (self.site.groups, -1))
        with torch.no_grad():
            self.layer.weight.copy_(rows[:, :n, :n].flatten(0, 1))
        return self._error(weight)

    def reset(self, norm: float) -> None:
        """The convolved channels take their share of ``norm``; what passes through has the input's own variance."""
        weight = self.layer.weight
        nn.init.kaiming_normal_(weight, nonlinearity="linear")
        share = weight.shape[0] / self.site.out_channels
        with torch.no_grad():
            weight.mul_(scaled_like(weight, norm * share**0.5))

    def release(self, bias: Tensor | None) -> nn.Module:
        return self.layer if bias is None else nn.Sequential(self.layer, Bias(bias, self.site.dims))


class PartialConv(nn.Module):
    """Convolves the first ``convolved`` channels of each group and passes the others through, strided."""

    def __init__(self, site: Site, convolved: int, centre: Support) -> None:
        super().__init__()
        self.groups, self.convolved = site.groups, convolved
        width = site.groups * convolved
        layer = Layer(width, width, site.groups, (True,) * site.dims)
        self.conv = nn.Sequential(*convolution(site, own_support(site), layer))
        self.rest = Subsample(site, centre)

    @property
    def weight(self) -> nn.Parameter:
        """``(groups * convolved, convolved, *k)``."""
        weight = self.conv[-1].weight
        assert isinstance(weight, nn.Parameter)
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, *sizes)`` to ``(B, C, *sizes)``."""
        split = x.unflatten(1, (self.groups, x.shape[1] // self.groups))
        first, others = split.tensor_split([self.convolved], 2)
        parts = [self.conv(first.flatten(1, 2)), self.rest(others.flatten(1, 2))]
        return torch.cat([part.unflatten(1, (self.groups, -1)) for part in parts], 2).flatten(1, 2)

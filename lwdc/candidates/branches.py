"""Operators that are not linear and so run as branches: a separable convolution with a norm inside, max-pooling."""

import torch
from torch import Tensor, nn

from lwdc.candidates.base import DoesNotFit, Operator, restrict
from lwdc.candidates.chain import convolution
from lwdc.candidates.fixed import pooling_support, refuse_itself
from lwdc.candidates.registry import register_candidate
from lwdc.candidates.separable import separable_layers, separate
from lwdc.geometry import Pad, own_support, pads_for
from lwdc.sites import Site


@register_candidate("separable_norm")
class SeparableNorm(Operator):
    """Depthwise, batch norm, ReLU, pointwise, as in MobileNet; the network's own norm follows the site."""

    def __init__(self, site: Site) -> None:
        if all(k == 1 for k in site.kernel_size) or site.groups == site.in_channels:
            raise DoesNotFit("there is nothing to separate")
        super().__init__(site, None)
        spatial, mixing = separable_layers(site)
        norm_class = nn.BatchNorm2d if site.dims == 2 else nn.BatchNorm1d
        self.depthwise = nn.Sequential(*convolution(site, own_support(site), spatial))
        self.norm = norm_class(site.in_channels)
        self.pointwise = nn.Sequential(*convolution(site, own_support(site), mixing))

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(torch.relu(self.norm(self.depthwise(x))))

    def inherit(self, weight: Tensor) -> float:
        """The separable approximation, as if there were no norm between; so is the error."""
        target = restrict(weight, self.site, own_support(self.site))
        depthwise, pointwise = separate(target, self.site.groups)
        with torch.no_grad():
            self._conv(self.depthwise).weight.copy_(depthwise)
            self._conv(self.pointwise).weight.copy_(pointwise)
        into = target.shape[1]
        blocks = pointwise.view(self.site.groups, -1, into, *pointwise.shape[2:])
        kernel = (blocks * depthwise.view(self.site.groups, 1, into, *depthwise.shape[2:])).reshape(target.shape)
        return float((target - kernel).norm() / target.norm().clamp_min(1e-30))

    def reset(self, norm: float) -> None:
        """The norm and the ReLU give the pointwise layer a second moment of 1/2, so its weight carries ``norm``."""
        nn.init.kaiming_normal_(self._conv(self.depthwise).weight, nonlinearity="linear")
        weight = self._conv(self.pointwise).weight
        nn.init.kaiming_normal_(weight, nonlinearity="linear")
        with torch.no_grad():
            weight.mul_(norm * 2**0.5 / weight.norm())

    def release(self, bias: Tensor | None) -> nn.Module:
        del bias  # The site's bias belongs to its linear operators.
        return nn.Sequential(*self.depthwise, self.norm, nn.ReLU(), *self.pointwise)

    @staticmethod
    def _conv(layers: nn.Sequential) -> nn.Conv2d:
        conv = layers[-1]
        assert isinstance(conv, (nn.Conv1d, nn.Conv2d))
        return conv  # type: ignore[return-value]


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

"""The original layer, as one candidate among the others."""

import math

import torch
import torch.nn.functional as F
from timm.layers import ScaledStdConv2d, ScaledStdConv2dSame
from torch import Tensor, nn

from lwdc.candidates.base import Operator
from lwdc.candidates.registry import register_candidate
from lwdc.geometry import own_support
from lwdc.sites import STANDARDISING, Site


@register_candidate("original")
class Original(Operator):
    """The site's own layer. The selection operator holds it and lends it through ``own``."""

    def __init__(self, site: Site) -> None:
        super().__init__(site, None if site.pools else own_support(site), site.groups)
        self._conv: tuple[nn.Module, ...] = ()  # in a tuple: registered by the selection operator alone

    def own(self, conv: nn.Module) -> None:
        """Use ``conv`` from now on."""
        self._conv = (conv,)

    def compact_kernel(self) -> Tensor:
        return effective_weight(self._conv[0])

    def forward(self, x: Tensor) -> Tensor:
        return self._conv[0](x) if self.support is None else super().forward(x)

    def inherit(self, weight: Tensor) -> float:
        """Nothing before a layer is owned, because the weight is its own; then the layer takes ``weight``.

        One that standardises its weight keeps it, for it could not be given any other, and a pooling layer has none.
        """
        if not self._conv or self.site.pools:
            return 0.0
        if not isinstance(self._conv[0], STANDARDISING):
            with torch.no_grad():
                self._conv[0].weight.copy_(weight)  # type: ignore[operator]
        return self._error(weight)

    def reset(self, norm: float) -> None:
        del norm  # The weight is the network's own.

    def release(self, bias: Tensor | None) -> nn.Module:
        del bias  # It is the convolution's own.
        return self._conv[0]


def trained_weight(site: Site, layer: nn.Module, like: Tensor) -> Tensor:
    """What stand-ins of ``layer`` inherit, without gradient: its effective weight.

    A pooling layer has none; its stand-ins begin as the mean over its window, with type and device of ``like``.
    """
    if not site.pools:
        return effective_weight(layer).detach()
    mean = 1 / math.prod(site.kernel_size)
    return torch.full((site.out_channels, 1, *site.kernel_size), mean, dtype=like.dtype, device=like.device)


def effective_weight(conv: nn.Module) -> Tensor:
    """The weight that a convolution really applies: standardised where its class does that."""
    weight = conv.weight
    assert isinstance(weight, Tensor)
    if not isinstance(conv, STANDARDISING):
        return weight
    scale = (conv.gain * conv.scale).view(-1) if isinstance(conv, (ScaledStdConv2d, ScaledStdConv2dSame)) else None
    rows = weight.reshape(1, conv.out_channels, -1)
    rows = F.batch_norm(rows, None, None, weight=scale, training=True, momentum=0.0, eps=conv.eps)
    return rows.reshape_as(weight)

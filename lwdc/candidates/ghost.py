"""Ghost convolution: some of the maps by the site's kernel, the others from those by a cheap depthwise one."""

import math

import torch
from torch import Tensor, nn

from lwdc.candidates.base import DoesNotFit, Operator, needs_space
from lwdc.candidates.branches import batch_norm
from lwdc.candidates.chain import Layer, convolution
from lwdc.candidates.registry import register_candidate
from lwdc.geometry import own_support
from lwdc.sites import Site


@register_candidate("ghost")
class Ghost(Operator):
    """``C_out / ratio`` maps by the site's kernel, rounded up; a depthwise kernel of ``size`` makes the others.

    Han et al., "GhostNet: more features from cheap operations", 2020. There norm and ReLU follow both parts; here
    the network's own, which follow the site, do that, and a further norm and ReLU stand before the cheap kernel
    only: where the network's are batch norm and ReLU, the cheap kernel reads what it would in GhostNet, up to the
    norm's weights. Where they are not, it departs from it. A site's own groups each have their ghosts, which is ours.
    """

    def __init__(self, site: Site, *, ratio: int = 2, size: int = 3) -> None:
        needs_space(site)
        if ratio < 2:
            raise DoesNotFit(f"ratio={ratio} leaves nothing to the cheap kernel")
        if size < 1 or size % 2 == 0:
            raise DoesNotFit(f"the cheap kernel needs an odd size, not {size}")
        filters = site.out_channels // site.groups
        if filters == 1:
            raise DoesNotFit("one filter a group cannot be shared")
        super().__init__(site, None)
        self.layer = GhostConv(site, math.ceil(filters / ratio), ratio, size)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def inherit(self, weight: Tensor) -> float:
        """The first filters are kept; every other is fitted by a multiple of the one that it is made from.

        The fit is least squares for the middle tap of the cheap kernel as if there were no norm before it, and so
        is the error. Kept filters give the network's own norm the maps that it knows.
        """
        primary, cheap = self.layer.primary_weight, self.layer.cheap.weight
        rows = weight.detach().unflatten(0, (self.site.groups, -1)).flatten(2)
        kept = primary.shape[0] // self.site.groups
        copies = cheap.shape[0] // primary.shape[0]
        parents = rows[:, :kept]
        repeated = parents.repeat_interleave(copies, 1)[:, : rows.shape[1] - kept]
        others = rows[:, kept:]
        scales = (others * repeated).sum(2) / repeated.square().sum(2).clamp_min(1e-30)
        with torch.no_grad():
            primary.copy_(parents.reshape(primary.shape))
            middle = torch.zeros(self.site.groups, kept * copies).to(scales)
            middle[:, : scales.shape[1]] = scales
            cheap.zero_()
            cheap.flatten(2)[:, 0, cheap[0, 0].numel() // 2] = middle.flatten()
        lost = others - scales.unsqueeze(2) * repeated
        return float(lost.norm() / rows.norm().clamp_min(1e-30))

    def reset(self, norm: float) -> None:
        """Every map takes its share of ``norm``; the norm and the ReLU give the cheap kernel a second moment of 1/2."""
        for weight, moment in ((self.layer.primary_weight, 1.0), (self.layer.cheap.weight, 0.5)):
            nn.init.kaiming_normal_(weight, nonlinearity="linear")
            share = weight.shape[0] / self.site.out_channels
            with torch.no_grad():
                weight.mul_(norm * (share / moment) ** 0.5 / weight.norm())

    def release(self, bias: Tensor | None) -> nn.Module:
        del bias  # The site's bias belongs to its linear operators.
        return self.layer


class GhostConv(nn.Module):
    """``filters`` maps a group by the site's kernel, and ``ratio - 1`` ghosts of each; those too many are cut off."""

    def __init__(self, site: Site, filters: int, ratio: int, size: int) -> None:
        super().__init__()
        self.groups, self.out_channels = site.groups, site.out_channels
        width = site.groups * filters
        layer = Layer(site.in_channels, width, site.groups, (True,) * site.dims)
        conv_class = nn.Conv2d if site.dims == 2 else nn.Conv1d
        self.primary = nn.Sequential(*convolution(site, own_support(site), layer))
        self.norm = batch_norm(site, width)
        self.cheap = conv_class(width, width * (ratio - 1), size, padding=size // 2, groups=width, bias=False)

    @property
    def primary_weight(self) -> nn.Parameter:
        """``(groups * filters, C_in / groups, *k)``."""
        weight = self.primary[-1].weight
        assert isinstance(weight, nn.Parameter)
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C_in, *sizes)`` to ``(B, C_out, *sizes)``."""
        maps = self.primary(x)
        ghosts = self.cheap(torch.relu(self.norm(maps)))
        parts = [part.unflatten(1, (self.groups, part.shape[1] // self.groups)) for part in (maps, ghosts)]
        return torch.cat(parts, 2)[:, :, : self.out_channels // self.groups].flatten(1, 2)

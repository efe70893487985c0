"""Grouped convolution: the site's kernel with more groups."""

from typing import Literal

from lwdc.candidates.base import DoesNotFit, Operator
from lwdc.candidates.chain import Chain, Layer
from lwdc.candidates.registry import register_candidate
from lwdc.sites import Site


@register_candidate("grouped")
def grouped(site: Site, *, groups: int | Literal["depthwise"]) -> Operator:
    """``groups`` counts the groups of the whole convolution. LWDC, Appendix A: N_3x3_g and N_1x1_g.

    ``"depthwise"``: as many as there are input channels.
    """
    if groups == "depthwise":
        groups = site.in_channels
    if groups <= site.groups:
        raise DoesNotFit(f"the site itself has {site.groups} groups")
    return Chain(site, [Layer(site.in_channels, site.out_channels, groups, (True,) * site.dims)])

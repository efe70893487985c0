"""Grouped convolution: the site's kernel with more groups."""

import math
from typing import Literal

from lwdc.candidates.base import DoesNotFit, Operator
from lwdc.candidates.chain import Chain, Layer
from lwdc.candidates.registry import register_candidate
from lwdc.errors import SpaceError
from lwdc.sites import Site


@register_candidate("grouped")
def grouped(site: Site, *, groups: int | Literal["most"]) -> Operator:
    """``groups`` counts the groups of the whole convolution. LWDC, Appendix A: N_3x3_g and N_1x1_g.

    ``"most"``: as many as divide the channels on both sides, which is depthwise where they are equal.
    """
    if groups == "most":
        groups = math.gcd(site.in_channels, site.out_channels)
    if not isinstance(groups, int) or groups < 1:
        raise SpaceError(f"groups is a number from 1 on, or most, found {groups!r}.")
    if groups <= site.groups:
        raise DoesNotFit(f"the site itself has {site.groups} groups")
    return Chain(site, [Layer(site.in_channels, site.out_channels, groups, (True,) * site.dims)])

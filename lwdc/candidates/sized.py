"""Convolutions of another kernel size or dilation, centred on the site's own."""

from lwdc.candidates.base import DoesNotFit, Operator, needs_space
from lwdc.candidates.chain import Chain, Layer
from lwdc.candidates.registry import register_candidate
from lwdc.geometry import centred_support
from lwdc.sites import Site


@register_candidate("kernel")
def kernel(site: Site, *, size: int) -> Operator:
    """A ``size`` x ``size`` kernel with the site's dilation; one wider than the site's widens the mixture."""
    return _centred(site, size, site.dilation)


@register_candidate("pointwise")
def pointwise(site: Site) -> Operator:
    """A 1x1 convolution (N_1x1 in LWDC, Appendix A)."""
    return _centred(site, 1, site.dilation)


@register_candidate("dilated")
def dilated(site: Site, *, size: int = 3, dilation: int = 2) -> Operator:
    """A ``size`` x ``size`` kernel whose taps lie ``dilation`` pixels apart."""
    return _centred(site, size, (dilation,) * site.dims)


def _centred(site: Site, size: int, dilation: tuple[int, ...]) -> Operator:
    needs_space(site)
    if size < 1 or min(dilation) < 1:
        raise DoesNotFit(f"there is no kernel of size {size} and dilation {dilation}")
    support = centred_support(site, (size,) * site.dims, dilation)
    if support.count == site.kernel_size and (support.step == site.dilation or size == 1):
        raise DoesNotFit("it is the original")
    layer = Layer(site.in_channels, site.out_channels, site.groups, (True,) * site.dims)
    return Chain(site, [layer], support=support)

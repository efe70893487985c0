"""What every operator at a site promises."""

import abc
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor, nn

from lwdc.errors import SpaceError
from lwdc.geometry import Support, convolve, own_support, pads_for, union
from lwdc.sites import Site


class DoesNotFit(SpaceError):
    """A candidate that cannot stand at a site; the message is the reason."""


class Operator(nn.Module, abc.ABC):
    """A stand-in for the convolution at ``site``.

    A *linear* operator is a grouped convolution on a ``support``: its ``compact_kernel()`` has shape
    ``(C_out, C_in / groups, *support.count)`` and it can be mixed with others as a kernel. Any other
    operator has ``support`` None and only ``forward``. Neither form adds the site's bias.
    """

    def __init__(self, site: Site, support: Support | None, groups: int = 1) -> None:
        super().__init__()
        self.site = site
        self.support = support
        self.groups = groups

    def compact_kernel(self) -> Tensor:
        """The kernel without its structural zeros; differentiable in the operator's weights."""
        raise NotImplementedError(f"{type(self).__name__} is not linear")

    def alike(self) -> Hashable:
        """What operators share whose kernels may be formed together; None where each forms its own."""
        return None

    def compact_kernels(self, others: Sequence["Operator"]) -> Tensor:
        """This operator's ``compact_kernel()`` and those of ``others`` that are alike, one after the other.

        Formed in one go: ``((1 + len(others)) * C_out, C_in / groups, *support.count)``.
        """
        raise NotImplementedError(f"a {type(self).__name__} forms its own kernel")

    def kernel(self, support: Support | None = None) -> Tensor:
        """The dense kernel ``(C_out, C_in / site.groups, *support.count)`` on a support that holds the operator's.

        The default is the smallest support that also holds the site's own taps.
        """
        assert self.support is not None, "only linear operators have a kernel"
        support = support or union([own_support(self.site), self.support])
        compact = self.compact_kernel()
        dense = compact.new_zeros(kernel_shape(self.site, support))
        block_view(dense, support, self.support, self.site.groups, self.groups).add_(
            as_blocks(compact, self.site.groups, self.groups)
        )
        return dense

    def forward(self, x: Tensor) -> Tensor:
        """The operator as a branch of its own: ``(B, C_in, *sizes)`` to ``(B, C_out, *sizes)``, without bias."""
        assert self.support is not None
        return convolve(x, self.compact_kernel(), None, self.site, self.support, self.groups)

    @property
    def product_rank(self) -> int:
        """Inner width of the matrix product that forms the kernel; 0 if forming it costs no product."""
        return 0

    @abc.abstractmethod
    def inherit(self, weight: Tensor) -> float:
        """Take the best approximation of a trained ``weight`` of the site, in place.

        Returns the relative error ``||W - K|| / ||W||`` (Frobenius). The result is never rescaled.
        """

    @abc.abstractmethod
    def reset(self, norm: float) -> None:
        """Draw fresh weights, in place, whose kernel has the Frobenius norm ``norm``.

        For white input that is the output variance of the original. Operators without weights ignore it.
        """

    @abc.abstractmethod
    def release(self, bias: Tensor | None) -> nn.Module:
        """Plain PyTorch modules that hold these weights and the site's ``bias``."""

    def _error(self, weight: Tensor) -> float:
        assert self.support is not None
        support = union([own_support(self.site), self.support])
        dense = embed(weight, self.site, support)
        return float((dense - self.kernel(support).detach()).norm() / weight.detach().norm().clamp_min(1e-30))


def kernel_shape(site: Site, support: Support) -> tuple[int, ...]:
    """Shape of a dense kernel of the site on ``support``."""
    return (site.out_channels, site.in_channels // site.groups, *support.count)


def embed(weight: Tensor, site: Site, support: Support) -> Tensor:
    """The site's own ``weight`` on a wider ``support``, zeros elsewhere."""
    dense = weight.new_zeros(kernel_shape(site, support))
    dense[(..., *support.slices_of(own_support(site)))] = weight.detach()
    return dense


def restrict(weight: Tensor, site: Site, support: Support) -> Tensor:
    """The site's own ``weight`` read at the taps of ``support``; zero where the site has no tap."""
    joint = union([own_support(site), support])
    return embed(weight, site, joint)[(..., *joint.slices_of(support))]


def block_view(dense: Tensor, support: Support, inner: Support, outer_groups: int, groups: int) -> Tensor:
    """A view of ``dense`` ``(O, I / outer_groups, *support.count)`` at the entries that a compact kernel fills.

    The compact kernel has ``groups`` (a multiple of ``outer_groups``) and lies on ``inner``. The view has
    the shape that ``as_blocks`` gives to it.
    """
    if support != inner:
        dense = dense[(..., *support.slices_of(inner))]
    ratio = groups // outer_groups
    if ratio == 1:
        return dense
    out, into, *taps = dense.shape
    blocks = dense.view(outer_groups, ratio, out // groups, ratio, into // ratio, *taps)
    return blocks.diagonal(dim1=1, dim2=3)  # (outer_groups, out / groups, into / ratio, *taps, ratio)


def as_blocks(compact: Tensor, outer_groups: int, groups: int) -> Tensor:
    """A view of a compact kernel ``(O, I / groups, *taps)`` in the shape of ``block_view``."""
    if groups == outer_groups:
        return compact
    out, into, *taps = compact.shape
    return compact.view(outer_groups, groups // outer_groups, out // groups, into, *taps).movedim(1, -1)


def needs_space(site: Site) -> None:
    """Raise ``DoesNotFit`` at a layer without spatial axes."""
    if site.dims == 0:
        raise DoesNotFit("a Linear layer has no taps")


def check_padding(site: Site, support: Support) -> None:
    """Raise ``DoesNotFit`` where a map is too small to be mirrored or repeated as far as ``support`` reaches."""
    if site.padding_mode in ("zeros", "replicate"):
        return
    for shape, _ in site.calls:
        for size, pair in zip(shape[1:], pads_for(site, support, shape[1:]), strict=True):
            if max(pair) > (size if site.padding_mode == "circular" else size - 1):
                raise DoesNotFit(f"{site.padding_mode} padding of {max(pair)} on a map of {size}")


def scaled_like(kernel: Tensor, norm: float) -> float:
    """The factor that brings ``kernel`` to the Frobenius norm ``norm``."""
    with torch.no_grad():
        return norm / max(float(kernel.norm()), 1e-30)


def own_bias(bias: Tensor) -> nn.Parameter:
    """The site's ``bias`` for what stands in, frozen if it is."""
    return nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)


_SETTINGS = (
    "in_channels", "out_channels", "in_features", "out_features",
    "kernel_size", "stride", "padding", "dilation", "groups",
)  # fmt: skip


def with_settings(released: nn.Module, layer: nn.Module) -> nn.Module:
    """``released`` with those settings of ``layer`` that it lacks, in place: networks read them, as to pad by them."""
    for name in _SETTINGS:
        if hasattr(layer, name) and not hasattr(released, name):
            setattr(released, name, getattr(layer, name))
    return released

"""Kernel-space mixing: ``sum_i p_i embed(kernel_i)`` in few passes over memory, forward and backward."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.compiler import is_compiling

from lwdc.candidates.base import Operator, as_blocks, block_view, kernel_shape
from lwdc.geometry import Support
from lwdc.sites import Site

Strided = tuple[tuple[int, ...], tuple[int, ...], int]  # size, stride, offset: of entries, from the first


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a compact kernel's entries lie in a dense one: two strided views of the same shape.

    Worked out once a site, because forming views costs as much as filling small kernels. Both kernels are laid out in
    ``layout``. Compilers lay tensors out as they like, so what is compiled has views of shapes instead.
    """

    dense: Strided
    compact: Strided
    fills: bool  # the compact kernel is as large as the dense one
    layout: torch.memory_format
    support: Support  # of the dense kernel, and of the compact one
    inner: Support
    outer_groups: int
    groups: int

    def of_dense(self, dense: Tensor, count: int) -> Tensor:
        """What compact kernels fill of ``count`` dense ones, or of gradients like them: views, ``(count, ...)``."""
        if is_compiling():
            return block_view(dense, self.support, self.inner, self.outer_groups, self.groups).unsqueeze(0)
        return _views(dense, self.dense, count)

    def of_compact(self, compact: Tensor, count: int) -> Tensor:
        """Views of ``count`` compact kernels in the same shape."""
        if is_compiling():
            return as_blocks(compact, self.outer_groups, self.groups).unsqueeze(0)
        return _views(compact, self.compact, count)

    def spread(self, compact: Tensor) -> Tensor:
        """The compact kernel as a dense one, with zeros elsewhere: nothing is written through a view."""
        dense = compact
        if self.groups > self.outer_groups:
            ratio, blocks = self.groups // self.outer_groups, as_blocks(compact, self.outer_groups, self.groups)
            outer, out, into, *taps = blocks.shape[:-1]
            zeros = compact.new_zeros(outer, ratio, out, ratio, into, *taps)
            dense = zeros.diagonal_scatter(blocks, 0, 1, 3).reshape(len(compact), ratio * into, *taps)
        for axis, cut in enumerate(self.support.slices_of(self.inner), start=2):
            zeros = dense.new_zeros(*dense.shape[:axis], self.support.count[axis - 2], *dense.shape[axis + 1 :])
            dense = zeros.slice_scatter(dense, axis, cut.start, cut.stop, cut.step)
        return dense


def place(
    site: Site, support: Support, operator: Operator, layout: torch.memory_format = torch.contiguous_format
) -> Placement:
    """Where the compact kernel of a linear ``operator`` lies in a dense kernel of the site on ``support``."""
    assert operator.support is not None
    shape = kernel_shape(site, support)
    inner = (site.out_channels, site.in_channels // operator.groups, *operator.support.count)
    whole, part = (torch.empty(size, device="meta", memory_format=layout) for size in (shape, inner))
    dense = block_view(whole, support, operator.support, site.groups, operator.groups)
    compact = as_blocks(part, site.groups, operator.groups)
    fills = shape == inner and (support, site.groups) == (operator.support, operator.groups)
    geometry = support, operator.support, site.groups, operator.groups
    return Placement(_strided(dense), _strided(compact), fills, layout, *geometry)


def _strided(view: Tensor) -> Strided:
    return tuple(view.shape), view.stride(), int(view.storage_offset())


def mix(weights: Tensor, shape: tuple[int, ...], kernels: list[Tensor], placements: list[Placement]) -> Tensor:
    """The dense kernels ``shape`` of sites alike, one after the other: ``(sites * C_out, ...)``.

    ``weights`` are ``(sites, len(kernels))``, and of each operator the compact kernels of all sites are one tensor,
    one after the other, too. Differentiable once, in weights and kernels. Only the compact kernels are kept for the
    backward pass. It is laid out as the placements are, for which kernels that are laid out otherwise are copied.
    What is compiled is one site at a time.
    """
    mixed: Tensor = _Mix.apply(weights, shape, placements, *kernels)
    return mixed


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weights: Tensor, shape: tuple[int, ...], placements: list[Placement], *given: Tensor
    ) -> Tensor:
        layout, count = placements[0].layout, len(weights)
        kernels = [kernel.contiguous(memory_format=layout) for kernel in given]
        scales = weights.unbind(1)
        ctx.save_for_backward(weights, *kernels)
        ctx.placements = placements
        whole = (count * shape[0], *shape[1:])
        mixed = torch.empty(whole, dtype=kernels[0].dtype, device=kernels[0].device, memory_format=layout)
        # A kernel that fills the buffer spares zeros and an addition.
        first = next((i for i, place in enumerate(placements) if place.fills), None)
        order = sorted(range(len(kernels)), key=lambda i: i != first)
        if is_compiling():
            mixed = mixed.zero_() if first is None else kernels[first] * scales[first]
            for i in order if first is None else order[1:]:
                mixed = torch.addcmul(mixed, placements[i].spread(kernels[i]), scales[i])
            return mixed.contiguous(memory_format=layout)
        if first is None:
            mixed.zero_()
        for i in order:
            place = placements[i]
            part, entries = place.of_dense(mixed, count), place.of_compact(kernels[i], count)
            if i == first:
                torch.mul(entries, _along(scales[i], part), out=part)
            else:
                part.addcmul_(entries, _along(scales[i], part))
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, *kernels = ctx.saved_tensors
        count = len(weights)
        gradient = gradient.contiguous(memory_format=ctx.placements[0].layout)
        scales = weights.unbind(1)
        weight_grads: list[Tensor] = []
        kernel_grads: list[Tensor | None] = []
        for i, (kernel, place) in enumerate(zip(kernels, ctx.placements, strict=True)):
            part = place.of_dense(gradient, count)
            if ctx.needs_input_grad[0]:
                pairs = zip(_flat(gradient, place, count), _flat(kernel, place, count), strict=True)
                weight_grads.append(
                    torch.stack([torch.dot(*pair) for pair in pairs])
                    if place.fills
                    else (part * place.of_compact(kernel, count)).sum(tuple(range(1, part.dim())))
                )
            wanted = ctx.needs_input_grad[3 + i]
            kernel_grads.append(_compact(part, _along(scales[i], part), kernel, place) if wanted else None)
        found = torch.stack(weight_grads, dim=1) if weight_grads else None
        return (found, None, None, *kernel_grads)


def _along(scale: Tensor, part: Tensor) -> Tensor:
    """``scale`` ``(sites,)`` as it broadcasts over views ``(sites, ...)``."""
    return scale.view(-1, *(1,) * (part.dim() - 1))


def _flat(kernels: Tensor, place: Placement, count: int) -> Sequence[Tensor]:
    """All entries of each of ``count`` dense kernels in the order of memory."""
    in_order = kernels.permute(0, 2, 3, 1) if place.layout == torch.channels_last else kernels
    return in_order.reshape(count, -1).unbind()


def _compact(part: Tensor, scale: Tensor, kernel: Tensor, place: Placement) -> Tensor:
    """Views ``part`` of a gradient times ``scale``, as a tensor like the compact kernels."""
    if is_compiling():
        entries = (part * scale)[0]
        return entries if entries.shape == kernel.shape else entries.movedim(-1, 1).reshape(kernel.shape)
    whole = torch.empty_like(kernel)
    torch.mul(part, scale, out=place.of_compact(whole, len(part)))
    return whole


def _views(tensor: Tensor, strided: Strided, count: int) -> Tensor:
    """A view of each of ``count`` kernels that lie one after the other in a ``tensor``, anywhere in its storage."""
    size, stride, offset = strided
    # An offset that is handed to `as_strided` counts from where the storage begins; without one it is the tensor's own.
    begin = tensor.as_strided((tensor.numel(),), (1,))[offset:] if offset else tensor
    return begin.as_strided((count, *size), (tensor.numel() // count, *stride))

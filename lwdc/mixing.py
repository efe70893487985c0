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
    ``layout``, kept as a flag, which can be pickled. Compilers lay tensors out as they like, so what is compiled has
    views of shapes instead.
    """

    dense: Strided
    compact: Strided
    fills: bool  # the compact kernel is as large as the dense one
    channels_last: bool
    support: Support  # of the dense kernel, and of the compact one
    inner: Support
    outer_groups: int
    groups: int

    @property
    def layout(self) -> torch.memory_format:
        """How both kernels lie in memory."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def of_dense(self, dense: Tensor, count: int) -> Tensor:
        """A view of what compact kernels fill of ``count`` dense ones, or of gradients like them.

        ``(count, ...)``, but for a single one without the first axis.
        """
        if is_compiling():
            return block_view(dense, self.support, self.inner, self.outer_groups, self.groups)
        return _views(dense, self.dense, count)

    def of_compact(self, compact: Tensor, count: int) -> Tensor:
        """A view of ``count`` compact kernels in the same shape."""
        if is_compiling():
            return as_blocks(compact, self.outer_groups, self.groups)
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
    return Placement(_strided(dense), _strided(compact), fills, layout == torch.channels_last, *geometry)


def _strided(view: Tensor) -> Strided:
    return tuple(view.shape), view.stride(), int(view.storage_offset())


def mix(weights: Tensor, shape: tuple[int, ...], kernels: list[Tensor], placements: list[Placement]) -> Tensor:
    """The dense kernel ``shape`` that the compact ``kernels`` give with ``weights``, ``(len(kernels),)``.

    Or those of several sites alike, one after the other, ``(sites * C_out, ...)``: each of the ``kernels`` then holds
    what all sites have, and ``weights`` are ``(sites, len(kernels))``. What is compiled is one site at a time.

    Differentiable once, in weights and kernels. Only the compact kernels are kept for the backward pass. It is laid out
    as the placements are, for which kernels that are laid out otherwise are copied.
    """
    mixed: Tensor = _Mix.apply(weights, shape, placements, *kernels)
    return mixed


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weights: Tensor, shape: tuple[int, ...], placements: list[Placement], *given: Tensor
    ) -> Tensor:
        layout, count = placements[0].layout, _count(weights)
        kernels = [kernel.contiguous(memory_format=layout) for kernel in given]
        scales = weights.unbind(-1)
        first = next((i for i, place in enumerate(placements) if place.fills), None)
        # A kernel that fills the buffer spares zeros and an addition.
        if first is None:
            whole = (count * shape[0], *shape[1:])
            mixed = torch.empty(whole, dtype=kernels[0].dtype, device=kernels[0].device, memory_format=layout).zero_()
        else:
            mixed = _joined(_times(_apart(kernels[first], count), scales[first]), count)
        for i, (kernel, place) in enumerate(zip(kernels, placements, strict=True)):
            if i == first:
                continue
            if is_compiling():
                mixed = torch.addcmul(mixed, place.spread(kernel), scales[i])
            else:
                part = place.of_dense(mixed, count)
                part.addcmul_(place.of_compact(kernel, count), _along(scales[i], part))
        ctx.save_for_backward(weights, *kernels)
        ctx.placements = placements
        return mixed.contiguous(memory_format=layout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, *kernels = ctx.saved_tensors
        count, scales = _count(weights), weights.unbind(-1)
        gradient = gradient.contiguous(memory_format=ctx.placements[0].layout)
        rows = _rows(gradient, ctx.placements[0], count) if any(place.fills for place in ctx.placements) else []
        weight_grads: list[Tensor] = []
        kernel_grads: list[Tensor | None] = []
        for i, (kernel, place) in enumerate(zip(kernels, ctx.placements, strict=True)):
            part = place.of_dense(gradient, count)
            if ctx.needs_input_grad[0] and place.fills:
                weight_grads += [torch.dot(*pair) for pair in zip(rows, _rows(kernel, place, count), strict=True)]
            elif ctx.needs_input_grad[0]:
                products = part * place.of_compact(kernel, count)
                weight_grads += [products.sum()] if count == 1 else products.flatten(1).sum(1).unbind()
            wanted = ctx.needs_input_grad[3 + i]
            kernel_grads.append(_compact(_times(part, scales[i]), kernel, place, count) if wanted else None)
        found = torch.stack(weight_grads) if weight_grads else None
        if found is not None and weights.dim() == 2:
            found = found.view(-1, count).t()
        return (found, None, None, *kernel_grads)


def _count(weights: Tensor) -> int:
    """Of the sites."""
    return 1 if weights.dim() == 1 else len(weights)


def _along(scale: Tensor, part: Tensor) -> Tensor:
    """``scale`` as it broadcasts over ``part``, ``(sites, ...)`` or of a single site."""
    return scale.view(-1, *(1,) * (part.dim() - 1)) if scale.dim() else scale


def _times(part: Tensor, scale: Tensor) -> Tensor:
    return part * _along(scale, part)


def _apart(kernels: Tensor, count: int) -> Tensor:
    """Kernels one after the other, ``(count * C_out, ...)``, as ``(count, C_out, ...)``, but for a single one."""
    return kernels if count == 1 else kernels.unflatten(0, (count, -1))


def _joined(kernels: Tensor, count: int) -> Tensor:
    """The other way round."""
    return kernels if count == 1 else kernels.flatten(0, 1)


def _rows(kernels: Tensor, place: Placement, count: int) -> Sequence[Tensor]:
    """All entries of each of ``count`` dense kernels, in the order of memory."""
    in_order = kernels.permute(0, 2, 3, 1) if place.channels_last else kernels
    return [in_order.reshape(-1)] if count == 1 else in_order.reshape(count, -1).unbind()


def _compact(entries: Tensor, kernel: Tensor, place: Placement, count: int) -> Tensor:
    """The ``entries`` of a view of compact kernels as a tensor like these."""
    if place.groups == place.outer_groups:
        return _joined(entries, count)
    if is_compiling():
        return entries.movedim(-1, 1).reshape(kernel.shape)
    whole = torch.empty_like(kernel)
    place.of_compact(whole, count).copy_(entries)
    return whole


def _views(tensor: Tensor, strided: Strided, count: int) -> Tensor:
    """A view of each of ``count`` kernels that lie one after the other in a ``tensor``, anywhere in its storage."""
    size, stride, offset = strided
    # An offset that is handed to `as_strided` counts from where the storage begins; without one it is the tensor's own.
    begin = tensor.as_strided((tensor.numel(),), (1,))[offset:] if offset else tensor
    if count == 1:
        return begin.as_strided(size, stride)
    return begin.as_strided((count, *size), (tensor.numel() // count, *stride))

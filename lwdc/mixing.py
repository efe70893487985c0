"""Kernel-space mixing: ``sum_i p_i embed(kernel_i)`` in few passes over memory, forward and backward."""

import dataclasses
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

    def of_dense(self, dense: Tensor) -> Tensor:
        """A view of what the compact kernel fills of ``dense``, or of a gradient like it."""
        if is_compiling():
            return block_view(dense, self.support, self.inner, self.outer_groups, self.groups)
        return _view(dense, self.dense)

    def of_compact(self, compact: Tensor) -> Tensor:
        """A view of the compact kernel in the same shape."""
        if is_compiling():
            return as_blocks(compact, self.outer_groups, self.groups)
        return _view(compact, self.compact)

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
    """The dense kernel ``shape`` that the compact ``kernels`` give with ``weights``, ``(len(kernels),)``.

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
        layout = placements[0].layout
        kernels = [kernel.contiguous(memory_format=layout) for kernel in given]
        scales = weights.unbind()
        first = next((i for i, place in enumerate(placements) if place.fills), None)
        # A kernel that fills the buffer spares zeros and an addition.
        if first is None:
            mixed = torch.empty(shape, dtype=kernels[0].dtype, device=kernels[0].device, memory_format=layout).zero_()
        else:
            mixed = kernels[first] * scales[first]
        for i, (kernel, place) in enumerate(zip(kernels, placements, strict=True)):
            if i == first:
                continue
            if is_compiling():
                mixed = torch.addcmul(mixed, place.spread(kernel), scales[i])
            else:  # our own tensor begins its storage
                mixed.as_strided(*place.dense).addcmul_(_view(kernel, place.compact), scales[i])
        ctx.save_for_backward(weights, *kernels)
        ctx.placements = placements
        return mixed.contiguous(memory_format=layout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, *kernels = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=ctx.placements[0].layout)
        scales = weights.unbind()
        weight_grads: list[Tensor] = []
        kernel_grads: list[Tensor | None] = []
        for i, (kernel, place) in enumerate(zip(kernels, ctx.placements, strict=True)):
            view = place.of_dense(gradient)
            if ctx.needs_input_grad[0]:
                weight_grads.append(
                    torch.dot(_flat(gradient, place.layout), _flat(kernel, place.layout))
                    if place.fills
                    else (view * place.of_compact(kernel)).sum()
                )
            kernel_grads.append(_compact(view * scales[i], kernel, place) if ctx.needs_input_grad[3 + i] else None)
        return (torch.stack(weight_grads) if weight_grads else None, None, None, *kernel_grads)


def _flat(kernel: Tensor, layout: torch.memory_format) -> Tensor:
    """All entries in the order of memory."""
    return (kernel.permute(0, 2, 3, 1) if layout == torch.channels_last else kernel).reshape(-1)


def _compact(entries: Tensor, kernel: Tensor, place: Placement) -> Tensor:
    """The ``entries`` of a view of the compact kernel as a tensor like it."""
    if entries.shape == kernel.shape:
        return entries
    if is_compiling():
        return entries.movedim(-1, 1).reshape(kernel.shape)
    whole = torch.empty_like(kernel)
    whole.as_strided(*place.compact).copy_(entries)
    return whole


def _view(tensor: Tensor, strided: Strided) -> Tensor:
    """The view of a dense ``tensor``, which may itself lie anywhere in its storage."""
    size, stride, offset = strided
    # An offset that is handed to `as_strided` counts from where the storage begins; without one it is the tensor's own.
    begin = tensor.as_strided((tensor.numel(),), (1,))[offset:] if offset else tensor
    return begin.as_strided(size, stride)

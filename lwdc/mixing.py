"""Kernel-space mixing: ``sum_i p_i embed(kernel_i)`` in few passes over memory, forward and backward."""

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lwdc.candidates.base import Operator, as_blocks, block_view, kernel_shape
from lwdc.geometry import Support
from lwdc.sites import Site

Strided = tuple[tuple[int, ...], tuple[int, ...], int]  # size, stride, offset: of entries, from the first


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a compact kernel's entries lie in a dense one: two strided views of the same shape.

    Worked out once a site, because forming views costs as much as filling small kernels. Both kernels are laid out in
    ``layout``.
    """

    dense: Strided
    compact: Strided
    fills: bool  # the compact kernel is as large as the dense one
    layout: torch.memory_format


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
    return Placement(_strided(dense), _strided(compact), fills, layout)


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
            if i != first:
                # Our own tensor begins its storage. Written through a view of a view no compiler would take it.
                mixed.as_strided(*place.dense).addcmul_(_view(kernel, place.compact), scales[i])
        ctx.save_for_backward(weights, *kernels)
        ctx.placements = placements
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, *kernels = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=ctx.placements[0].layout)
        scales = weights.unbind()
        weight_grads: list[Tensor] = []
        kernel_grads: list[Tensor | None] = []
        for i, (kernel, place) in enumerate(zip(kernels, ctx.placements, strict=True)):
            view = _view(gradient, place.dense)
            if ctx.needs_input_grad[0]:
                weight_grads.append(
                    torch.dot(_flat(gradient), _flat(kernel))
                    if place.fills
                    else (view * _view(kernel, place.compact)).sum()
                )
            kernel_grads.append(_compact(view * scales[i], kernel, place) if ctx.needs_input_grad[3 + i] else None)
        return (torch.stack(weight_grads) if weight_grads else None, None, None, *kernel_grads)


def _flat(kernel: Tensor) -> Tensor:
    """All entries in the order of memory."""
    return kernel.as_strided((kernel.numel(),), (1,))


def _compact(entries: Tensor, kernel: Tensor, place: Placement) -> Tensor:
    """The ``entries`` of a strided view of the compact kernel as a tensor like it."""
    if entries.shape == kernel.shape:
        return entries
    whole = torch.empty_like(kernel)
    whole.as_strided(*place.compact).copy_(entries)
    return whole


def _view(tensor: Tensor, strided: Strided) -> Tensor:
    """The view of a dense ``tensor``, which may itself lie anywhere in its storage."""
    size, stride, offset = strided
    # An offset that is handed to `as_strided` counts from where the storage begins; without one it is the tensor's own.
    begin = tensor.as_strided((tensor.numel(),), (1,))[offset:] if offset else tensor
    return begin.as_strided(size, stride)

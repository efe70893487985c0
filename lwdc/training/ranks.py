"""Ranks: what processes that train one network together share, and what each of them draws for itself."""

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from lightning_fabric import Fabric
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lwdc.data import Shard
from lwdc.errors import TrainingError
from lwdc.selection import SelectionOp, draw, forget, selection_ops

# Arguments of DDP by which a forward pass leaves buffers as they are: gates are drawn before it, by buffers of theirs.
BUFFERS_LEFT: dict[str, Any] = {
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(nn.parallel.DistributedDataParallel).parameters
    else "broadcast_buffers": False  # before PyTorch 2.15
}


def shard_of(fabric: Fabric) -> Shard:
    """The examples of every batch that this rank works on."""
    return Shard(fabric.global_rank, fabric.world_size)


def total(values: Tensor, fabric: Fabric) -> Tensor:
    """The sum over all ranks, on each of them; on one rank the values themselves."""
    if fabric.world_size == 1:
        return values
    summed = fabric.all_reduce(values.to(fabric.device), reduce_op="sum")
    assert isinstance(summed, Tensor)
    return summed


def share_buffers(model: nn.Module, fabric: Fabric) -> None:
    """Let every rank have the buffers of rank 0, in place: each has seen other examples."""
    if fabric.world_size == 1:
        return
    for buffer in model.buffers():
        shared = buffer.contiguous() if buffer.dtype != torch.bool else buffer.byte()
        torch.distributed.broadcast(shared, 0)
        buffer.copy_(shared)


def check_gates(supernet: nn.Module, fabric: Fabric, when: str) -> None:
    """Raise ``TrainingError`` with rank and site if a gate is not bitwise what it is on rank 0."""
    ops = selection_ops(supernet)
    if fabric.world_size == 1 or not ops:
        return
    own = {site: _state(op) for site, op in ops.items()}
    first = fabric.broadcast(own)
    sites = list(own)
    at = next((i for i, site in enumerate(sites) if not torch.equal(own[site], first[site])), -1)
    mine = torch.zeros(fabric.world_size, dtype=torch.int64, device=fabric.device)
    mine[fabric.global_rank] = at + 1
    for rank, place in enumerate((total(mine, fabric) - 1).tolist()):
        if place >= 0:
            raise TrainingError(
                f"the gate of {sites[place]!r} on rank {rank} is no longer that of rank 0, seen {when}: the ranks "
                "would search for different networks. Go on from the last checkpoint; if it happens again, look for "
                "what a rank draws or computes of its own, or for a faulty device."
            )


def _state(op: SelectionOp) -> Tensor:
    """Logits, schedule and last sample of a gate, as one vector."""
    values = [*op.gate.state_dict().values(), *([] if op.sampled is None else [op.sampled])]
    return torch.cat([value.detach().double().cpu().flatten() for value in values])


@contextlib.contextmanager
def drawing_apart(model: nn.Module, seed: int | None, device: torch.device, *, again: bool) -> Iterator[None]:
    """While this lasts a forward pass has its gates drawn as it stands, and all else that is random from ``seed``.

    So the gates are the same on every rank and for every piece of a batch, and dropout is not. None: everything as
    it stands. If ``again``, the generators are put back at the end, for the next piece. Gates are drawn here, before
    the forward pass, so that a compiled one has nothing of it in its graph: its own generators would draw otherwise.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices) if again else contextlib.nullcontext():
        draw(model)
        if seed is not None:
            torch.manual_seed(seed)
        try:
            yield
        finally:
            forget(model)


@contextlib.contextmanager
def synced_norms(model: nn.Module) -> Iterator[None]:
    """While this lasts batch norms see the examples of all ranks; in place, and put back."""
    norms = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent._modules.items()
        if isinstance(child, _BatchNorm)
    ]
    convert_sync_batchnorm(model)  # shares weights and statistics with those that it stands in for
    try:
        yield
    finally:
        for parent, name, norm in norms:
            norm.train(parent._modules[name].training)  # type: ignore[union-attr]
            parent._modules[name] = norm

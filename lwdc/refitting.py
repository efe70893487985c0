"""Refit: what stands at a site gives again what the site gave, by least squares on examples, without training."""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lwdc.architecture import Architecture


def refit(
    network: nn.Module,
    reference: nn.Module,
    architecture: Architecture,
    images: Tensor,
    *,
    places: int = 20_000,
    damping: float = 1e-3,
) -> dict[str, float]:
    """Bring every site of ``network`` as near as it can come to what it gives in ``reference``, in place.

    ``network`` is discretised by ``architecture``; ``reference`` has the same sites, as the original network and the
    supernet have; ``images`` is ``(B, C, *sizes)``, at least two. In forward order the last layer of each site is
    solved for, on what it receives from those before it, so that errors are mended instead of summed (asymmetric
    reconstruction: Zhang et al. 2015, "Accelerating very deep convolutional networks"; He et al. 2017, "Channel
    pruning"). Ours: all in one forward pass, for any stand-in that ends in a plain layer. The others stay, and so do
    layers that are called more than once, share their weight, or have more than a quarter as many weights a filter as
    there are outputs to solve them from.

    At most ``places`` outputs a filter enter. ``damping``, relative to the mean square of the inputs, pulls towards
    the present weights. Batch norms take the batch's own statistics and keep theirs: recalibrate them afterwards.
    Returns by site the share of the reference's sum of squares (about the mean where the layer has a bias) that
    remains as error.
    """
    targets = _targets(reference, architecture, images, places)
    shared = Counter(id(p) for m in network.modules() for p in m._parameters.values())
    remaining: dict[str, float] = {}

    def solve_at(name: str) -> Any:
        def hook(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
            if len(targets[name].values) >= _PER_WEIGHT * layer.weight[0].numel():  # type: ignore[index]
                remaining[name] = _solve(layer, args[0], targets[name], damping)

        return hook

    with contextlib.ExitStack() as stack:
        stack.enter_context(_by_batch(network))
        for name in targets:
            layer = _last_layer(network.get_submodule(name))
            if layer is not None and shared[id(layer.weight)] == 1:
                stack.callback(layer.register_forward_pre_hook(solve_at(name)).remove)
        network(images)
    return remaining


@dataclasses.dataclass(frozen=True)
class _Target:
    """Outputs of a site at a few places, ``(P, C_out)``; ``picked`` counts them over examples and positions."""

    values: Tensor
    picked: Tensor


_PER_WEIGHT = 4  # outputs to solve a weight from: with few of them the examples would be learnt by heart


def _targets(reference: nn.Module, architecture: Architecture, images: Tensor, places: int) -> dict[str, _Target]:
    found: dict[str, _Target] = {}
    calls: Counter[str] = Counter()

    def look_at(name: str, linear: bool) -> Any:
        def hook(site: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            del site, args
            calls[name] += 1
            rows = output.flatten(0, -2) if linear else output.movedim(1, -1).flatten(0, -2)
            generator = torch.Generator().manual_seed(len(found))
            picked = torch.randperm(len(rows), generator=generator)[:places].to(rows.device)
            found[name] = _Target(rows[picked], picked)

        return hook

    with contextlib.ExitStack() as stack:
        stack.enter_context(_evaluating(reference))
        for name in architecture.choices:
            site = reference.get_submodule(name)
            linear = isinstance(getattr(site, "conv", site), nn.Linear)
            stack.callback(site.register_forward_hook(look_at(name, linear)).remove)
        reference(images)
    return {name: target for name, target in found.items() if calls[name] == 1}


def _last_layer(module: nn.Module) -> Any:
    """The plain layer that a stand-in ends in, if it does."""
    while type(module) is nn.Sequential and len(module):
        module = module[-1]
    return module if type(module) in (nn.Conv1d, nn.Conv2d, nn.Linear) else None


def _solve(layer: Any, x: Tensor, target: _Target, damping: float) -> float:
    """Least squares for weight and bias of the layer on its input ``x``, in place; the share of error that remains."""
    groups = getattr(layer, "groups", 1)
    received = _received(layer, x, target.picked).double()  # (P, C_in * taps)
    wanted = target.values.double()
    inputs = received.unflatten(1, (groups, -1)).transpose(0, 1)  # (g, P, n)
    outputs = wanted.unflatten(1, (groups, -1)).transpose(0, 1)  # (g, P, m)
    has_bias = layer.bias is not None
    means = (inputs.mean(1, keepdim=True), outputs.mean(1, keepdim=True)) if has_bias else (0.0, 0.0)
    inputs, outputs = inputs - means[0], outputs - means[1]
    now = layer.weight.detach().double().reshape(groups, -1, inputs.shape[2]).transpose(1, 2)  # (g, n, m)
    gram = inputs.transpose(1, 2) @ inputs
    size = gram.diagonal(dim1=1, dim2=2).mean(1).view(-1, 1, 1)
    live = size > 0  # what receives zeros only keeps its weight
    ridge = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device) * torch.where(live, damping * size, 1)
    best = torch.linalg.solve(gram + ridge, inputs.transpose(1, 2) @ outputs + ridge @ now)
    if not best.isfinite().all():
        return float("nan")
    with torch.no_grad():
        layer.weight.copy_(best.transpose(1, 2).reshape(layer.weight.shape))
        if has_bias:
            layer.bias.copy_((means[1] - means[0] @ best).flatten())
    error = (outputs - inputs @ best).square().sum()
    return float(error / outputs.square().sum().clamp_min(1e-30))


def _received(layer: Any, x: Tensor, picked: Tensor) -> Tensor:
    """What the layer multiplies with its weight at the places ``picked``: ``(P, C_in * taps)``."""
    if isinstance(layer, nn.Linear):
        return x.flatten(0, -2)[picked]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    geometry = list(zip(x.shape[2:], layer.kernel_size, layer.dilation, layer.stride, strict=True))
    extents = [(size - dilation * (k - 1) - 1) // stride + 1 for size, k, dilation, stride in geometry]
    image, *at = torch.unravel_index(picked, (len(x), *extents))
    taps = torch.cartesian_prod(*(torch.arange(k) for k in layer.kernel_size)).view(-1, len(geometry))
    columns = []
    for tap in taps.tolist():
        where = [p * stride + t * dilation for p, t, (_, _, dilation, stride) in zip(at, tap, geometry, strict=True)]
        columns.append(x.movedim(1, -1)[(image, *where)])
    return torch.stack(columns, dim=2).flatten(1)


@contextlib.contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """In evaluation mode and without gradient; as it was afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextlib.contextmanager
def _by_batch(network: nn.Module) -> Iterator[None]:
    """The same, but for batch norms, which take the batch's statistics and remember none."""
    with _evaluating(network):
        norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        for norm in norms:
            norm.training, norm.track_running_stats = True, False
        try:
            yield
        finally:
            for norm in norms:
                norm.track_running_stats = True

"""Refit: what stands at a site gives again what the site gave, by least squares on examples, without training."""

import contextlib
import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lwdc.architecture import Architecture
from lwdc.errors import ArchitectureError, TrainingError
from lwdc.tracing import evaluating


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

    At most ``places`` outputs a filter enter, fewer in large networks. ``damping``, above 0 and relative to the
    mean square of the inputs, pulls towards the present weights. Batch norms take the batch's own statistics and keep
    theirs: recalibrate them afterwards. Returns by site the share of the reference's sum of squares (about the mean
    where the layer has a bias) that remains as error. Raises ``ArchitectureError`` for sites that a network does not
    have, ``TrainingError`` for examples or a damping that cannot serve.
    """
    if len(images) < 2 or not damping > 0:
        raise TrainingError(
            f"a refit needs two examples or more and a damping above 0, found {len(images)} and {damping}."
        )
    layers = _layers(network, reference, architecture)
    targets = _targets(reference, layers, images, places)
    remaining: dict[str, float] = {}

    def solve_at(name: str) -> Any:
        def hook(layer: Any, args: tuple[Tensor, ...]) -> None:
            target = targets.pop(name, None)
            if target is not None and len(target.values) >= _FEWEST * layer.weight[0].numel():
                error = _solve(layer, args[0], target, damping)
                if error is not None:
                    remaining[name] = error

        return hook

    with contextlib.ExitStack() as stack:
        stack.enter_context(_by_batch(network))
        stack.enter_context(torch.no_grad())
        for name in targets:
            stack.callback(layers[name].register_forward_pre_hook(solve_at(name)).remove)
        network(images)
    return remaining


def fitting(examples: int, size: Sequence[int]) -> int:
    """How many of so many examples ``(channels, *sizes)`` may pass through a network at once: fewer large ones."""
    return min(examples, max(2, _MOST_VALUES // math.prod(size)))


_MOST_VALUES = 2**24  # of all examples together: 111 of 3 x 224 x 224
_FEWEST = 4  # outputs to solve a weight from: with fewer the examples would be learnt by heart
_MOST = 2**28  # values of the reference that are kept at once: a gibibyte
_CHUNK = 2**23  # values that are multiplied at once


@dataclasses.dataclass(frozen=True)
class _Target:
    """Outputs of a site at a few places, ``(P, C_out)``; ``picked`` counts them over all ``rows`` of the map."""

    values: Tensor
    picked: Tensor
    rows: int


def _layers(network: nn.Module, reference: nn.Module, architecture: Architecture) -> dict[str, Any]:
    """By site the last layer of what stands there, where it is a plain one with weights of its own."""
    held = Counter(id(p) for m in network.modules() for p in m._parameters.values() if p is not None)
    modules, references = (dict(m.named_modules(remove_duplicate=False)) for m in (network, reference))
    found = {}
    for name in architecture.choices:
        if name not in modules or name not in references:
            raise ArchitectureError(f"there is no layer {name!r} to refit in both networks; is it their architecture?")
        layer: Any = modules[name]
        while type(layer) is nn.Sequential and len(layer):
            layer = layer[-1]
        plain = type(layer) in (nn.Conv1d, nn.Conv2d, nn.Linear)
        if plain and "weight" in layer._parameters and all(held[id(p)] == 1 for p in layer.parameters()):
            found[name] = layer
    return found


def _targets(reference: nn.Module, layers: dict[str, Any], images: Tensor, places: int) -> dict[str, _Target]:
    found: dict[str, _Target] = {}
    calls: Counter[str] = Counter()
    filters = sum(len(layer.weight) for layer in layers.values())
    most = min(places, _MOST // max(filters, 1))

    def look_at(name: str, layer: Any) -> Any:
        def hook(site: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            del site, args
            calls[name] += 1
            rows = (output if isinstance(layer, nn.Linear) else output.movedim(1, -1)).flatten(0, -2)
            generator = torch.Generator().manual_seed(len(found))
            picked = torch.randperm(len(rows), generator=generator)[:most].to(rows.device)
            found[name] = _Target(rows[picked], picked, len(rows))

        return hook

    with contextlib.ExitStack() as stack:
        stack.enter_context(evaluating(reference))
        stack.enter_context(torch.no_grad())
        for name, layer in layers.items():
            stack.callback(reference.get_submodule(name).register_forward_hook(look_at(name, layer)).remove)
        reference(images)
    return {name: target for name, target in found.items() if calls[name] == 1}


def _solve(layer: Any, x: Tensor, target: _Target, damping: float) -> float | None:
    """Least squares for weight and bias of the layer on its input ``x``, in place; the share of error that remains.

    None, and nothing changed, where the numbers do not allow it.
    """
    groups, weight, bias = getattr(layer, "groups", 1), layer.weight, layer.bias
    read = _reader(layer, x, target.rows)
    if read is None:
        return None
    # Sums over all places, in chunks: inputs are (g, P, n), outputs (g, P, m).
    n, m = weight[0].numel(), len(weight) // groups
    gram, product = weight.new_zeros(groups, n, n, dtype=_EXACT), weight.new_zeros(groups, n, m, dtype=_EXACT)
    mean_in, mean_out = weight.new_zeros(groups, 1, n, dtype=_EXACT), weight.new_zeros(groups, 1, m, dtype=_EXACT)
    square = weight.new_zeros((), dtype=_EXACT)
    count = len(target.picked)
    step = max(1, _CHUNK // (groups * n))
    for start in range(0, count, step):
        inputs = read(target.picked[start : start + step]).to(_EXACT).unflatten(1, (groups, -1)).transpose(0, 1)
        outputs = target.values[start : start + step].to(_EXACT).unflatten(1, (groups, -1)).transpose(0, 1)
        gram += inputs.transpose(1, 2) @ inputs
        product += inputs.transpose(1, 2) @ outputs
        mean_in += inputs.sum(1, keepdim=True) / count
        mean_out += outputs.sum(1, keepdim=True) / count
        square += outputs.square().sum()
    if bias is not None:
        gram -= count * mean_in.transpose(1, 2) @ mean_in
        product -= count * mean_in.transpose(1, 2) @ mean_out
        square -= count * mean_out.square().sum()
    now = weight.detach().to(_EXACT).reshape(groups, m, n).transpose(1, 2)
    size = gram.diagonal(dim1=1, dim2=2).mean(1).view(-1, 1, 1)
    # What receives zeros only keeps its weight.
    ridge = torch.eye(n, dtype=_EXACT, device=weight.device) * torch.where(size > 0, damping * size, 1)
    best, failed = torch.linalg.solve_ex(gram + ridge, product + ridge @ now)
    if bool(failed.any()) or not bool(best.isfinite().all()):
        return None
    weight.copy_(best.transpose(1, 2).reshape(weight.shape))
    if bias is not None:
        bias.copy_((mean_out - mean_in @ best).flatten())
    error = square - 2 * (best * product).sum() + (best * (gram @ best)).sum()
    return float(error / square.clamp_min(1e-30))


_EXACT = torch.float64


def _reader(layer: Any, x: Tensor, rows: int) -> Callable[[Tensor], Tensor] | None:
    """Gives what the layer multiplies with its weight at places, ``(P, C_in * taps)``; None if ``rows`` are not its."""
    if isinstance(layer, nn.Linear):
        flat = x.flatten(0, -2)
        return flat.__getitem__ if len(flat) == rows else None
    if layer.padding_mode != "zeros":
        padded = F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
    elif isinstance(layer.padding, str):
        padded = F.pad(x, layer._reversed_padding_repeated_twice)
    else:
        padded = F.pad(x, [p for both in reversed(layer.padding) for p in (both, both)])
    geometry = list(zip(padded.shape[2:], layer.kernel_size, layer.dilation, layer.stride, strict=True))
    extents = [(size - dilation * (k - 1) - 1) // stride + 1 for size, k, dilation, stride in geometry]
    if len(x) * math.prod(extents) != rows:
        return None
    taps = list(itertools.product(*(range(k) for k in layer.kernel_size)))
    channels_last = padded.movedim(1, -1)

    def read(picked: Tensor) -> Tensor:
        image, *at = torch.unravel_index(picked, (len(x), *extents))
        columns = []
        for tap in taps:
            where = [p * g[3] + t * g[2] for p, t, g in zip(at, tap, geometry, strict=True)]
            columns.append(channels_last[(image, *where)])
        return torch.stack(columns, dim=2).flatten(1)

    return read


@contextlib.contextmanager
def _by_batch(network: nn.Module) -> Iterator[None]:
    """In evaluation mode, but for batch norms, which take the batch's statistics and remember none."""
    with evaluating(network):
        norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        for norm in norms:
            norm.training, norm.track_running_stats = True, False
        try:
            yield
        finally:
            for norm in norms:
                norm.track_running_stats = True

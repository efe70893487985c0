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
from lwdc.candidates.sums import Added
from lwdc.errors import ArchitectureError, TrainingError
from lwdc.tracing import evaluating, uncompiled


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
    pruning"). Ours: all in one forward pass, for any stand-in that ends in a plain layer, or in several side by side (a
    sum), which are solved for together, or in turns where their groups differ by so much that it would take too long.
    The others stay, and so do layers that are called more than once, share their weight, or have more than a quarter as
    many weights a filter as there are outputs to solve them from.

    At most ``places`` outputs a filter enter, fewer in large networks. ``damping``, above 0 and relative to the
    mean square of the inputs, pulls towards the present weights. Batch norms take the batch's own statistics and keep
    theirs: recalibrate them afterwards. Returns by site the share of the reference's sum of squares (about the mean
    where a layer that was solved for has a bias) that remains as error. Raises ``ArchitectureError`` for sites that a
    network does not have, ``TrainingError`` for examples or a damping that cannot serve.
    """
    if len(images) < 2 or not damping > 0:
        raise TrainingError(
            f"a refit needs two examples or more and a damping above 0, found {len(images)} and {damping}."
        )
    network, reference = uncompiled(network), uncompiled(reference)
    ends = _ends(network, reference, architecture)
    targets = _targets(reference, ends, images, places)
    remaining: dict[str, float] = {}

    def solve_at(name: str, received: list[Tensor]) -> Any:
        def hook(site: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            del site, args
            inputs, target, end = tuple(received), targets.pop(name, None), ends[name]
            received.clear()
            if target is None or len(inputs) != len(end.layers) or len(target.values) < _FEWEST * end.weights:
                return None
            whole = max(end.square(target.values), 1e-30)
            for turn in end.turns():
                layers, given = [end.layers[k] for k in turn], [inputs[k] for k in turn]
                is_all = end.is_all and len(turn) == len(end.layers)
                rest = None if is_all else output - _together(layers, given)
                error = _solve(layers, given, rest, target, damping)
                if error is None:
                    continue
                remaining[name] = error / whole
                solved = _together(layers, given)
                output = solved if rest is None else solved + rest
            return output

        return hook

    with contextlib.ExitStack() as stack:
        stack.enter_context(_by_batch(network))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast(images.device.type, enabled=False))
        for name in targets:
            received: list[Tensor] = []
            for layer in ends[name].layers:
                stack.callback(layer.register_forward_pre_hook(_noting(received)).remove)
            stack.callback(network.get_submodule(name).register_forward_hook(solve_at(name, received)).remove)
        network(images)
    return remaining


def fitting(examples: int, size: Sequence[int]) -> int:
    """How many of so many examples ``(channels, *sizes)`` may pass through a network at once: fewer large ones."""
    return min(examples, max(2, _MOST_VALUES // math.prod(size)))


_MOST_VALUES = 2**24  # of all examples together: 111 of 3 x 224 x 224
_FEWEST = 4  # outputs to solve a weight from: with fewer the examples would be learnt by heart
_MOST = 2**28  # values of the reference that are kept at once: a gibibyte
_CHUNK = 2**23  # values that are multiplied at once
_MOST_TIMES = 8  # the system of all layers together may be so many times as large as those of each alone
_CONSTANT = 1e-12  # share of a layer's inputs that varies, below which it is rounding


@dataclasses.dataclass(frozen=True)
class _Target:
    """Outputs of a site at a few places, ``(P, C_out)``; ``picked`` counts them over all ``rows`` of the map."""

    values: Tensor
    picked: Tensor
    rows: int


@dataclasses.dataclass(frozen=True)
class _End:
    """The last layers of what stands at a site: one, or several whose outputs are added."""

    layers: tuple[Any, ...]
    is_all: bool  # whether nothing else is added

    @property
    def weights(self) -> int:
        """How many a filter has."""
        return sum(layer.weight[0].numel() for layer in self.layers)

    def square(self, values: Tensor) -> float:
        """The sum of squares of outputs ``(P, C)``, about their mean where there is a bias."""
        biased = any(layer.bias is not None for layer in self.layers)
        found = 0.0
        for some in values.split(max(1, _CHUNK // len(values)), dim=1):
            exact = some.to(_EXACT)
            found += float((exact - exact.mean(0) if biased else exact).square().sum())
        return found

    def turns(self) -> list[list[int]]:
        """Which layers to solve for at once, one turn after the other: all of them, or each alone, twice."""
        sizes = [layer.weight[0].numel() for layer in self.layers]
        alone = sum(_groups(layer) * n**2 for layer, n in zip(self.layers, sizes, strict=True))
        if math.lcm(*map(_groups, self.layers)) * sum(sizes) ** 2 <= _MOST_TIMES * alone:
            return [list(range(len(sizes)))]
        return 2 * [[k] for k in range(len(sizes))]


def _together(layers: Sequence[Any], received: Sequence[Tensor]) -> Tensor:
    """What the layers give together, without their hooks."""
    first, *others = (layer.forward(x) for layer, x in zip(layers, received, strict=True))
    return sum(others, start=first)


def _noting(received: list[Tensor]) -> Any:
    def hook(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        del layer
        received.append(args[0])

    return hook


def _ends(network: nn.Module, reference: nn.Module, architecture: Architecture) -> dict[str, _End]:
    """By site the last layers of what stands there, those that are plain ones with weights of their own."""
    held = Counter(id(p) for m in network.modules() for p in m._parameters.values() if p is not None)
    modules, references = (dict(m.named_modules(remove_duplicate=False)) for m in (network, reference))

    def is_plain(layer: Any) -> bool:
        plain = type(layer) in (nn.Conv1d, nn.Conv2d, nn.Linear) and "weight" in layer._parameters
        return plain and all(held[id(p)] == 1 for p in layer.parameters())

    found = {}
    for name in architecture.choices:
        if name not in modules or name not in references:
            raise ArchitectureError(f"there is no layer {name!r} to refit in both networks; is it their architecture?")
        last = _last(modules[name])
        branches = [_last(part) for part in last.parts] if isinstance(last, Added) else [last]
        if plain := tuple(filter(is_plain, branches)):
            found[name] = _End(plain, len(plain) == len(branches))
    return found


def _last(module: nn.Module) -> nn.Module:
    while type(module) is nn.Sequential and len(module):
        module = module[-1]
    return module


def _targets(reference: nn.Module, ends: dict[str, _End], images: Tensor, places: int) -> dict[str, _Target]:
    found: dict[str, _Target] = {}
    calls: Counter[str] = Counter()
    filters = sum(len(end.layers[0].weight) for end in ends.values())
    most = min(places, _MOST // max(filters, 1))

    def look_at(name: str, layer: Any) -> Any:
        def hook(site: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            del site, args
            calls[name] += 1
            rows = _rows(output, layer)
            generator = torch.Generator().manual_seed(len(found))
            picked = torch.randperm(len(rows), generator=generator)[:most].to(rows.device)
            found[name] = _Target(rows[picked], picked, len(rows))

        return hook

    with contextlib.ExitStack() as stack:
        stack.enter_context(evaluating(reference))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast(images.device.type, enabled=False))
        for name, end in ends.items():
            stack.callback(reference.get_submodule(name).register_forward_hook(look_at(name, end.layers[0])).remove)
        reference(images)
    return {name: target for name, target in found.items() if calls[name] == 1}


def _rows(output: Tensor, layer: Any) -> Tensor:
    """A map as one row a place, ``(P, C)``."""
    return (output if isinstance(layer, nn.Linear) else output.movedim(1, -1)).flatten(0, -2)


def _solve(
    layers: Sequence[Any], received: Sequence[Tensor], rest: Tensor | None, target: _Target, damping: float
) -> float | None:  # fmt: skip
    """Least squares for the weights and bias of layers whose outputs are added to the ``rest``, in place.

    The sum of squares that remains. None, and nothing changed, where the numbers do not allow it.
    """
    read = _reader_of_all(layers, received, target.rows)
    if read is None:
        return None
    first, count = layers[0].weight, len(target.picked)
    beside = None if rest is None else _rows(rest, layers[0])[target.picked]
    # Sums over all places, in chunks: inputs are (g, P, n), outputs (g, P, m).
    groups = math.lcm(*map(_groups, layers))
    n, m = sum(layer.weight[0].numel() for layer in layers), len(first) // groups
    gram, product = first.new_zeros(groups, n, n, dtype=_EXACT), first.new_zeros(groups, n, m, dtype=_EXACT)
    mean_in, mean_out = first.new_zeros(groups, 1, n, dtype=_EXACT), first.new_zeros(groups, 1, m, dtype=_EXACT)
    square = first.new_zeros((), dtype=_EXACT)
    step = max(1, _CHUNK // (groups * n))
    for start in range(0, count, step):
        chunk = slice(start, start + step)
        values = target.values[chunk].to(_EXACT)
        values = values if beside is None else values - beside[chunk]
        inputs, outputs = read(target.picked[chunk]), values.unflatten(1, (groups, -1)).transpose(0, 1)
        gram += inputs.transpose(1, 2) @ inputs
        product += inputs.transpose(1, 2) @ outputs
        mean_in += inputs.sum(1, keepdim=True) / count
        mean_out += outputs.sum(1, keepdim=True) / count
        square += outputs.square().sum()
    received_squares = gram.diagonal(dim1=1, dim2=2).clone()
    biases = [layer.bias for layer in layers if layer.bias is not None]
    if biases:
        gram -= count * mean_in.transpose(1, 2) @ mean_in
        product -= count * mean_in.transpose(1, 2) @ mean_out
        square -= count * mean_out.square().sum()
    present = [layer.weight.detach().to(_EXACT).reshape(groups, m, -1).transpose(1, 2) for layer in layers]
    now = torch.cat(present, dim=1)
    # Each layer is pulled by the size of what it receives; one that receives nothing, or beside a bias the same at all
    # places, keeps its weight.
    sizes = [part.shape[1] for part in present]
    size, whole = (_means(squares, sizes) for squares in (gram.diagonal(dim1=1, dim2=2), received_squares))
    ridge = torch.diag_embed(torch.where(size > _CONSTANT * whole, damping * size, whole.clamp_min(1)))
    best, failed = torch.linalg.solve_ex(gram + ridge, product + ridge @ now)
    if bool(failed.any()) or not bool(best.isfinite().all()):
        return None
    for layer, found in zip(layers, best.split(sizes, dim=1), strict=True):
        layer.weight.copy_(found.transpose(1, 2).reshape(layer.weight.shape))
    for bias in biases:  # the first one has it all
        bias.copy_((mean_out - mean_in @ best).flatten() if bias is biases[0] else torch.zeros_like(bias))
    return float(square - 2 * (best * product).sum() + (best * (gram @ best)).sum())


def _means(squares: Tensor, sizes: Sequence[int]) -> Tensor:
    """In the place of ``(g, n)`` their mean over each layer's share ``sizes`` of n."""
    return torch.cat([own.mean(1, keepdim=True).expand_as(own) for own in squares.split(sizes, dim=1)], dim=1)


def _groups(layer: Any) -> int:
    return getattr(layer, "groups", 1)


def _reader_of_all(layers: Sequence[Any], received: Sequence[Tensor], rows: int) -> Callable[[Tensor], Tensor] | None:
    """Gives at places what all layers multiply with their weights, ``(g, P, n)`` with the groups of all together.

    None if ``rows`` are not those of each.
    """
    readers = []
    for layer, x in zip(layers, received, strict=True):
        reader = _reader(layer, x, rows)
        if reader is None:
            return None
        readers.append((reader, _groups(layer)))
    groups = math.lcm(*map(_groups, layers))

    def read(picked: Tensor) -> Tensor:
        found = []
        for reader, own in readers:
            inputs = reader(picked).to(_EXACT).unflatten(1, (own, -1)).transpose(0, 1)
            found.append(inputs.repeat_interleave(groups // own, dim=0))
        return torch.cat(found, dim=2)

    return read


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

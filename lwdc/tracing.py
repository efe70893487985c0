"""Tracing: a network run on the shape of an input, to see what its layers meet, without computing anything."""

import copy
import functools
import itertools

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lwdc.errors import SpaceError

Shape = tuple[int, ...]  # (channels, height, width), (channels, length) or (positions, channels): no batch axis


def outline(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode that shares the parameters of ``model``: nothing done to it reaches ``model``."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters()}).eval()


def trace(model: nn.Module, names: tuple[str, ...], input_size: Shape) -> dict[str, list[tuple[Shape, Shape]]]:
    """(Input, output) shapes of every use of the layers of these names for one input, in order of first use.

    ``model`` is left as it was. Raises ``SpaceError`` if it does not accept an input of ``input_size``.
    """
    calls: dict[str, list[tuple[Shape, Shape]]] = {}

    def record(name: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Linear):
            positions = args[0].shape[:-1].numel()
            into, out = ((n,) if positions == 1 else (positions, n) for n in (args[0].shape[-1], output.shape[-1]))
            calls.setdefault(name, []).append((into, out))
            return
        # Some networks fold heads or windows into the batch: that is so many uses for one image.
        use = (tuple(args[0].shape[1:]), tuple(output.shape[1:]))
        calls.setdefault(name, []).extend([use] * args[0].shape[0])

    for run in (*BY_SHAPES, _run_for_real):
        # A copy for each, which takes the hooks and caches that a forward pass leaves behind.
        copied = outline(model)
        for name in names:
            copied.get_submodule(name).register_forward_hook(functools.partial(record, name))
        calls.clear()
        try:
            run(copied, input_size)
        except Exception as error:  # noqa: BLE001  the next may do
            failure = error
        else:
            return calls
    cause = next(iter(str(failure).splitlines()), type(failure).__name__)
    raise SpaceError(
        f"the network does not accept an input of shape {tuple(input_size)}: {cause}. "
        "Give the input_size, (channels, height, width) or (channels, length), that it was made for."
    ) from failure


def _run_on_meta(model: nn.Module, shape: Shape) -> None:
    """Fastest; fails where a tensor that is neither parameter nor buffer meets one without storage."""
    held = itertools.chain(model.named_parameters(), model.named_buffers())
    without_storage = {name: tensor.detach().to("meta") for name, tensor in held}
    with torch.no_grad():
        torch.func.functional_call(model, without_storage, (_image(model, shape).to("meta"),))


def _run_on_fakes(model: nn.Module, shape: Shape) -> None:
    """Several times slower; fails only where the network looks at values."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        model(_image(model, shape))


def _run_for_real(model: nn.Module, shape: Shape) -> None:
    with torch.no_grad():
        model(_image(model, shape))


BY_SHAPES = (_run_on_meta, _run_on_fakes)  # ways to run a network on one input of a shape, computing nothing


def _image(model: nn.Module, input_size: Shape) -> Tensor:
    reference = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    return torch.zeros(1, *input_size, dtype=reference.dtype, device=reference.device)

"""Tracing: a network run on the shape of an input, to see what its layers meet, without computing anything."""

import contextlib
import copy
import inspect
import itertools
import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lwdc.errors import SpaceError

Shape = tuple[int, ...]  # (channels, height, width), (channels, length) or (positions, channels): no batch axis


def outline(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode that shares the parameters of ``model``: nothing done to it reaches ``model``.

    It calls all its layers.
    """
    copied = copy.deepcopy(model, {id(p): p for p in model.parameters()}).eval()
    call_layers(copied, set(copied.modules()))
    return copied


def call_layers(model: nn.Module, layers: Collection[nn.Module]) -> list[tuple[nn.Module, str, Any]]:
    """Have the encoders of torch's transformers that hold one of ``layers`` call them in evaluation too, in place.

    Else, without gradients, they compute with the weights themselves, as if all layers were Linear. Returns what was
    there before: modules, attributes and values.
    """
    before = []
    for module in model.modules():
        for kind, name in _FAST_PATHS.items():
            if isinstance(module, kind) and not set(layers).isdisjoint(module.modules()):
                before.append((module, name, getattr(module, name)))
                setattr(module, name, False)
    return before


# Without these torch takes no fast path.
_FAST_PATHS = {nn.TransformerEncoderLayer: "activation_relu_or_gelu", nn.TransformerEncoder: "use_nested_tensor"}


def replace(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> None:
    """Put other modules in place of those given, in every parent of ``model`` that holds them."""
    for parent in list(model.modules()):  # as it is: a replacement may hold what it replaces
        # `_modules` and not `named_children()`: the latter hides a module that one parent holds twice.
        for key, child in parent._modules.items():
            if child is not None and child in replacements:
                parent._modules[key] = replacements[child]


def reference(network: nn.Module) -> Tensor:
    """A tensor of the type and on the device that the network computes with."""
    return next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(()))


def uncompiled(network: nn.Module) -> nn.Module:
    """What ``torch.compile`` was given, which shares all with what it returned; any other network as it is."""
    inside = network._modules.get("_orig_mod")
    return network if inside is None else inside


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In evaluation mode; afterwards every module is in the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


class Trace(NamedTuple):
    """What one input meets, by the names of the layers."""

    calls: dict[str, list[tuple[Shape, Shape]]]  # (input, output) shapes of every use, in order of first use
    read: set[str]  # layers whose weight the network reads, apart from calling them
    odd: dict[str, str]  # layers that are called as no stand-in could be, each with the reason


def trace(model: nn.Module, names: tuple[str, ...], input_size: Shape) -> Trace:
    """How the layers of these names are used for one input.

    ``model`` is left as it was. Raises ``SpaceError`` if it does not accept an input of ``input_size``.
    """
    check_shape(input_size)
    for way in WAYS:
        # A copy for each, which takes the hooks and caches that a forward pass leaves behind.
        copied = outline(model)
        found = Trace({}, set(), {})
        layers = {copied.get_submodule(name): name for name in names}
        replace(copied, {layer: _watched(layer, name, found) for layer, name in layers.items()})
        try:
            way(copied, input_size)()
        except Exception as error:  # noqa: BLE001  the next may do
            failure = error
        else:
            return found
    if len(needed := _needed(model)) > 1:
        raise SpaceError(
            f"the network takes several inputs ({', '.join(map(repr, needed))}): wrap it in a module that takes one, "
            "or give the others defaults."
        ) from failure
    cause = next(iter(str(failure).splitlines()), type(failure).__name__).rstrip(".")
    raise SpaceError(
        f"the network does not accept an input of shape {tuple(input_size)}: {cause}. "
        "Give the input_size, (channels, height, width) or (channels, length), that it was made for."
    ) from failure


def check_shape(input_size: Any) -> None:
    """Raise ``SpaceError`` unless it is the shape of one input."""
    try:
        if isinstance(input_size, str | bytes) or min(map(operator.index, input_size)) < 1:
            raise ValueError
    except (TypeError, ValueError):
        raise SpaceError(
            "input_size is the shape of one input, (channels, height, width) or (channels, length), whole numbers from "
            f"1 on; found {input_size!r:.200}."
        ) from None


def _needed(network: nn.Module) -> list[str]:
    """The inputs that the network cannot do without, by name."""
    try:
        parameters = inspect.signature(network.forward).parameters.values()
    except (TypeError, ValueError):  # of what is not written in Python
        return []
    further = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [given.name for given in parameters if given.default is given.empty and given.kind not in further]


def _watched(layer: nn.Module, name: str, found: Trace) -> nn.Module:
    """A twin of ``layer``, which shares all that it holds, to stand in its place and note in ``found`` every use.

    By a class of its own: some networks go another way where hooks are. What calls the layer itself is found, too.
    """
    kind = type(layer)
    twin = copy.copy(layer)
    running = False

    def forward(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
        nonlocal running
        running = True
        try:
            output = kind.forward(layer, *args, **kwargs)
        finally:
            running = False
        if kwargs or len(args) != 1:
            found.odd[name] = "it is called with arguments that a stand-in does not take"
        elif isinstance(layer, nn.Linear):
            positions = args[0].shape[:-1].numel()
            into, out = ((n,) if positions == 1 else (positions, n) for n in (args[0].shape[-1], output.shape[-1]))
            found.calls.setdefault(name, []).append((into, out))
        elif args[0].dim() != _dims(layer) + 2:
            found.odd[name] = f"it is called on {args[0].dim()} axes, without those of batch and channels"
        else:
            # Some networks fold heads or windows into the batch: that is so many uses for one image.
            use = (tuple(args[0].shape[1:]), tuple(output.shape[1:]))
            found.calls.setdefault(name, []).extend([use] * args[0].shape[0])
        return output

    def weight(layer: nn.Module) -> Tensor | None:
        if not running:
            found.read.add(name)
        return layer._parameters["weight"]

    own: dict[str, Any] = {"forward": forward}
    if "weight" in layer._parameters:
        own["weight"] = property(weight)

    past = "the network uses it by a reference outside of its modules, where no stand-in would be"

    def missed(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
        found.odd[name] = past
        return kind.forward(layer, *args, **kwargs)

    def missed_weight(layer: nn.Module) -> Tensor | None:
        found.odd[name] = past
        return layer._parameters["weight"]

    twin.__class__ = type(kind.__name__, (kind,), own)
    own = {"forward": missed, **({"weight": property(missed_weight)} if "weight" in own else {})}
    layer.__class__ = type(kind.__name__, (kind,), own)
    return twin


def _dims(layer: nn.Module) -> int:
    """Spatial axes of a convolution or a pooling layer."""
    return 1 if isinstance(layer, (nn.Conv1d, nn.MaxPool1d, nn.AvgPool1d)) else 2


def _on_meta(model: nn.Module, shape: Shape) -> Callable[[], Any]:
    """Fastest; fails where a tensor that is neither parameter nor buffer meets one without storage."""
    held = itertools.chain(model.named_parameters(), model.named_buffers())
    without_storage = {name: tensor.detach().to("meta") for name, tensor in held}
    image = _image(model, shape, "meta")

    def run() -> Any:
        with torch.no_grad():
            return torch.func.functional_call(model, without_storage, (image,))

    return run


def _on_fakes(model: nn.Module, shape: Shape) -> Callable[[], Any]:
    """Several times slower; fails only where the network looks at values."""

    def run() -> Any:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            return model(_image(model, shape))

    return run


def _for_real(model: nn.Module, shape: Shape) -> Callable[[], Any]:
    image = _image(model, shape)

    def run() -> Any:
        with torch.no_grad():
            return model(image)

    return run


# Ways to run a network on one input of a shape: each makes ready what runs it, and returns the output. The first
# compute nothing.
BY_SHAPES = (_on_meta, _on_fakes)
WAYS = (*BY_SHAPES, _for_real)  # all ways, the next for where one fails


def _image(model: nn.Module, shape: Shape, device: str | None = None) -> Tensor:
    like = reference(model)
    return torch.zeros(1, *shape, dtype=like.dtype, device=device or like.device)

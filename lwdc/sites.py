"""Sites: the places in a network where one operator may stand in for another."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from timm.layers import Conv2dSame, Linear, ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from lwdc.errors import SpaceError
from lwdc.tracing import Shape, trace

Kind = Literal["convolution", "linear", "max_pool", "avg_pool"]

STANDARDISING = (StdConv2d, StdConv2dSame, ScaledStdConv2d, ScaledStdConv2dSame)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, Conv2dSame, *STANDARDISING)
_POOLS: dict[type[nn.Module], Kind] = {
    nn.MaxPool1d: "max_pool",
    nn.MaxPool2d: "max_pool",
    nn.AvgPool1d: "avg_pool",
    nn.AvgPool2d: "avg_pool",
}
_LAYERS: tuple[type[nn.Module], ...] = (nn.modules.conv._ConvNd, nn.Linear, *_POOLS)


@dataclasses.dataclass(frozen=True)
class Site:
    """One layer of a network, as plain data: its arithmetic and where it stands.

    Sizes are one number per spatial axis. ``padding`` is ``(before, after)`` per axis; with ``same``
    it is what the traced input gave, and is computed from each input's own size at run time. A Linear
    layer is a convolution without spatial axes, its channels last; a pooling layer one with as many
    groups as channels, and no weight.
    """

    name: str
    index: int  # in order of first use
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    groups: int
    bias: bool
    same: bool = False
    padding_mode: str = "zeros"
    calls: tuple[tuple[Shape, Shape], ...] = ()  # (input, output) shape of every use for one image
    aliases: tuple[str, ...] = ()  # further names under which the same module is held
    kind: Kind = "convolution"
    read: bool = False  # whether the network reads the weight, apart from calling the layer

    @property
    def dims(self) -> int:
        """Number of spatial axes; 0 for a Linear layer."""
        return len(self.kernel_size)

    @property
    def pools(self) -> bool:
        """Whether it is a pooling layer."""
        return self.kind in ("max_pool", "avg_pool")

    @property
    def input_shape(self) -> Shape:
        """Shape of what the first use reads."""
        return self.calls[0][0]

    @property
    def output_shape(self) -> Shape:
        """Shape of what the first use returns."""
        return self.calls[0][1]

    def __str__(self) -> str:
        return f"{self.name!r} {self.input_shape} -> {self.output_shape}"


@dataclasses.dataclass(frozen=True)
class Layout:
    """The sites of a network in forward order, and the layers that cannot be sites, each with the reason."""

    sites: tuple[Site, ...]
    left_alone: tuple[tuple[str, str], ...]


def find_sites(model: nn.Module, input_size: Shape) -> Layout:
    """Every layer that could be replaced, found by a trace of shapes without computing anything.

    These are convolutions, Linear layers and pooling layers with a window.

    ``model`` is left as it was. Raises ``SpaceError`` if it does not accept an input of ``input_size``, or cannot be
    copied as a search needs it.
    """
    check_network(model)
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, _LAYERS):
            names.setdefault(module, []).append(name)
    holders = _holders(model)
    reasons = {module: _unusable(module, held_as[0]) or _shares(module, holders) for module, held_as in names.items()}
    usable = {held_as[0]: module for module, held_as in names.items() if not reasons[module]}
    traced = trace(model, tuple(usable), input_size)
    calls = {usable[name]: shapes for name, shapes in traced.calls.items()}

    left_alone: list[tuple[str, str]] = []
    sites: list[Site] = []
    for module, held_as in names.items():
        odd = traced.odd.get(held_as[0], "")
        reason = reasons[module] or odd or ("" if module in calls else _NEVER_CALLED)
        if reason:
            left_alone.append((held_as[0], reason))
    for module, shapes in calls.items():
        if names[module][0] in traced.odd:
            continue
        reason = _pools_at_several_widths(module, shapes) or _rounds_up(module, shapes)
        if reason:
            left_alone.append((names[module][0], reason))
        else:
            site = _site(module, names[module], len(sites), tuple(shapes))
            sites.append(dataclasses.replace(site, read=site.name in traced.read))
    return Layout(tuple(sites), tuple(left_alone))


def check_network(model: nn.Module) -> None:
    """Raise ``SpaceError`` for a network whose copies would not be what it is."""
    if isinstance(model, fx.GraphModule):
        raise SpaceError(
            "the network is a torch.fx graph, which loses what is put into it: wrap what it was made from."
        )
    held = itertools.chain(model.named_parameters(), model.named_buffers())
    without_shape = [name for name, tensor in held if is_lazy(tensor)]
    if without_shape:
        raise SpaceError(
            f"{_some(without_shape)}: of a lazy layer, whose shapes the first batch tells. Run one batch through the "
            "network first."
        )
    without_values = [name for name, held in model.named_parameters() if held.is_meta]
    if without_values:
        raise SpaceError(f"{_some(without_values)}: on the meta device, without values. Load the weights first.")
    computed = [
        f"{name}.{own}" if name else own
        for name, module in model.named_modules()
        for own, held in vars(module).items()
        if isinstance(held, Tensor) and held.grad_fn is not None
    ]
    if computed:
        raise SpaceError(
            f"{_some(computed)}: computed before the forward pass and kept, as by torch.nn.utils.weight_norm, "
            "spectral_norm or prune, and cannot be copied. Make it a plain weight first (remove_weight_norm, "
            "remove_spectral_norm, prune.remove), or take torch.nn.utils.parametrizations."
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


_SHOWN = 5
_NEVER_CALLED = "not called in a forward pass: it is unused, or its weight is read without a call"


def _unusable(module: nn.Module, name: str) -> str:
    kind = type(module)
    if not isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear, *_POOLS)):
        return f"{kind.__name__} is not supported as a site"
    if not name:
        return "it is the whole network: put it into a container"
    for own in () if isinstance(module, tuple(_POOLS)) else ("weight", "bias"):
        if getattr(module, own) is not None and not isinstance(module._parameters.get(own), nn.Parameter):
            return f"its {own} is computed, by weight norm or another parametrisation"
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return "it has hooks, which its stand-in would not run"
    if kind in _POOLS:
        return _pools_otherwise(module)
    if isinstance(module, nn.Linear) and kind.forward in (nn.Linear.forward, Linear.forward):
        return ""
    for known in _CONVOLUTIONS:
        if isinstance(module, known) and kind.forward is known.forward:
            same = kind._conv_forward is known._conv_forward  # type: ignore[attr-defined]
            return "" if same else f"{kind.__name__} convolves in its own way"
    return f"{kind.__name__} has a forward of its own"


def _holders(model: nn.Module) -> dict[nn.Parameter, list[str]]:
    """By parameter the modules that hold it."""
    found: dict[nn.Parameter, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in set(module._parameters.values()) - {None}:
            found.setdefault(parameter, []).append(name)
    return found


def _shares(module: nn.Module, holders: Mapping[nn.Parameter, Sequence[str]]) -> str:
    for own, parameter in module._parameters.items():
        if parameter is not None and len(holders[parameter]) > 1:
            return f"it shares its {own}: {_some(holders[parameter])} hold the same"
    return ""


def _pools_otherwise(module: nn.Module) -> str:
    if getattr(module, "return_indices", False):
        return "it returns indices, which no stand-in has"
    return "it pools nothing" if math.prod(_per_axis(module, module.kernel_size)) == 1 else ""


def _pools_at_several_widths(module: nn.Module, calls: list[tuple[Shape, Shape]]) -> str:
    several = type(module) in _POOLS and len({before[0] for before, _ in calls}) > 1
    return "it is used on maps of different channels" if several else ""


def _rounds_up(module: nn.Module, calls: list[tuple[Shape, Shape]]) -> str:
    """Why a pooling layer is no site: its last windows reach past the padding, as no stand-in's do."""
    if not getattr(module, "ceil_mode", False):
        return ""
    site = _pool(module, [""], 0, tuple(calls))
    for before, after in calls:
        for size, out, k, s, d, (pad, _) in zip(
            before[1:], after[1:], site.kernel_size, site.stride, site.dilation, site.padding, strict=True
        ):
            if (size + 2 * pad - d * (k - 1) - 1) // s + 1 != out:
                return "its last windows reach past the padding (ceil_mode)"
    return ""


def _site(module: nn.Module, names: list[str], index: int, calls: tuple[tuple[Shape, Shape], ...]) -> Site:
    if isinstance(module, nn.Linear):
        return Site(
            names[0], index, module.in_features, module.out_features, (), (), (), (), 1,
            module.bias is not None, calls=calls, aliases=tuple(names[1:]), kind="linear",
        )  # fmt: skip
    if type(module) in _POOLS:
        return _pool(module, names, index, calls)
    assert isinstance(module, (nn.Conv1d, nn.Conv2d))
    same = isinstance(module, Conv2dSame) or bool(getattr(module, "same_pad", False))
    return Site(
        name=names[0],
        index=index,
        in_channels=module.in_channels,
        out_channels=module.out_channels,
        kernel_size=tuple(module.kernel_size),
        stride=tuple(module.stride),
        dilation=tuple(module.dilation),
        padding=same_padding(module, calls[0][0][1:]) if same else _fixed_padding(module),
        groups=module.groups,
        bias=module.bias is not None,
        same=same,
        padding_mode=module.padding_mode,
        calls=calls,
        aliases=tuple(names[1:]),
    )


def _pool(module: nn.Module, names: list[str], index: int, calls: tuple[tuple[Shape, Shape], ...]) -> Site:
    channels = calls[0][0][0]
    padding = _per_axis(module, module.padding)
    return Site(
        name=names[0],
        index=index,
        in_channels=channels,
        out_channels=channels,
        kernel_size=_per_axis(module, module.kernel_size),
        stride=_per_axis(module, module.stride),
        dilation=_per_axis(module, getattr(module, "dilation", 1)),
        padding=tuple((p, p) for p in padding),
        groups=channels,
        bias=False,
        calls=calls,
        aliases=tuple(names[1:]),
        kind=_POOLS[type(module)],
    )


def _per_axis(module: nn.Module, value: Any) -> tuple[int, ...]:
    axes = 1 if isinstance(module, (nn.MaxPool1d, nn.AvgPool1d)) else 2
    return tuple(int(v) for v in value) if isinstance(value, (tuple, list)) else (int(value),) * axes


def _fixed_padding(module: nn.Conv1d | nn.Conv2d) -> tuple[tuple[int, int], ...]:
    if module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    if module.padding == "valid":
        return ((0, 0),) * len(module.kernel_size)
    return tuple((int(p), int(p)) for p in module.padding)


def same_padding(conv: "nn.Conv1d | nn.Conv2d | Site", sizes: Shape) -> tuple[tuple[int, int], ...]:
    """TensorFlow's "SAME" padding ``(before, after)`` per axis for an input of these spatial sizes."""
    pads = []
    for size, k, s, d in zip(sizes, conv.kernel_size, conv.stride, conv.dilation, strict=True):
        total = max((math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0)
        pads.append((total // 2, total - total // 2))
    return tuple(pads)

"""The control: the same network, uniformly narrower."""

import inspect
import itertools
from typing import Any

from lwdc.backbones import Backbone
from lwdc.counting import count_macs
from lwdc.errors import LwdcError
from lwdc.tracing import Shape


def narrow(backbone: Backbone, macs: int, input_size: Shape) -> Backbone:
    """The backbone with every stage narrower by one factor, with as nearly ``macs`` MACs as channels allow, not more.

    After the widest such network any stage may have one channel more: small networks know only coarse widths.
    """
    full = inspect.signature(type(backbone.create())).parameters["channels"].default

    def at(channels: list[int]) -> Backbone:
        options: dict[str, Any] = {**backbone.options, "channels": channels}
        return Backbone(backbone.name, backbone.num_classes, backbone.in_chans, options)

    def scaled(width: float) -> list[int]:
        return [max(1, round(count * width)) for count in full]

    def size(channels: list[int]) -> int:
        return count_macs(at(channels).create(), [input_size])

    low, high = 0.0, 1.0
    while high - low > 0.5 / max(full):
        middle = (low + high) / 2
        low, high = (middle, high) if size(scaled(middle)) <= macs else (low, middle)
    widest = scaled(low)
    extras = itertools.product((0, 1), repeat=len(widest))
    wider = [[count + more for count, more in zip(widest, extra, strict=True)] for extra in extras]
    fitting = {tuple(channels): count for channels in wider if (count := size(channels)) <= macs}
    if not fitting:
        raise LwdcError(f"even with one channel a stage {backbone.name} has more than {macs:,} MACs.")
    return at(list(max(fitting, key=fitting.__getitem__)))

"""The control: the same network, uniformly narrower."""

import inspect
import itertools
import math
from typing import Any

from lwdc.backbones import Backbone
from lwdc.counting import count_macs
from lwdc.errors import LwdcError
from lwdc.tracing import Shape


def narrow(backbone: Backbone, macs: int, input_size: Shape) -> Backbone:
    """The backbone with every stage narrower by one factor, with as nearly ``macs`` MACs as channels allow, not more.

    MACs go with the square of the width. Each stage is rounded up or down, whichever comes nearest in all.
    """
    network = backbone.create()
    channels = inspect.signature(type(network)).parameters["channels"].default
    width = min(1.0, math.sqrt(macs / count_macs(network, [input_size])))
    found: tuple[int, Backbone] | None = None
    for rounded in itertools.product(*_roundings([count * width for count in channels])):
        options: dict[str, Any] = {**backbone.options, "channels": list(rounded)}
        smaller = Backbone(backbone.name, backbone.num_classes, backbone.in_chans, options)
        size = count_macs(smaller.create(), [input_size])
        if size <= macs and (found is None or size > found[0]):
            found = size, smaller
    if found is None:
        raise LwdcError(f"no uniformly narrower {backbone.name} has at most {macs:,} MACs.")
    return found[1]


def _roundings(counts: list[float]) -> list[list[int]]:
    return [sorted({max(1, math.ceil(count) - 1), math.ceil(count)}) for count in counts]

"""A moving average of weights."""

import copy
import itertools

import torch
from torch import Tensor, nn


class Average:
    """``module`` holds the exponential moving average of a model's weights and statistics; counts are as they are.

    Every tensor once: where a module is held twice, ``timm.utils.ModelEmaV3`` averages its weights twice a step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights of ``model`` as they are now."""
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        if floats:
            averages, now = (list(side) for side in zip(*floats, strict=True))
            torch._foreach_lerp_(averages, now, weight=1 - self.decay)
        for average, value in pairs:
            if not average.is_floating_point():
                average.copy_(value)


def _tensors(model: nn.Module) -> list[Tensor]:
    return list(itertools.chain(model.parameters(), model.buffers()))

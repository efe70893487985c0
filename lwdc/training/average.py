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
        # The rest is computed and not learned: what is not saved, and masks, which hold infinities.
        kept = self.module.state_dict().keys()
        self._floats = [
            name
            for name, tensor in _tensors(self.module).items()
            if name in kept and tensor.is_floating_point() and bool(tensor.isfinite().all())
        ]

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights of ``model`` as they are now."""
        averages, now = _tensors(self.module), _tensors(model)
        if floats := self._floats:
            torch._foreach_lerp_([averages[n] for n in floats], [now[n] for n in floats], weight=1 - self.decay)
        for name in averages.keys() - set(floats):
            averages[name].copy_(now[name])


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(itertools.chain(model.named_parameters(), model.named_buffers()))

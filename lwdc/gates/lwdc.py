"""A one-hot gate from the trainable gate function, LWDC-style."""

import torch
from torch import Tensor

from lwdc.gates.base import Gate, one_hot_of


class TrainableGate(Gate):
    """``OH_i = TG(alpha_i - max_{j != i} alpha_j)``: a step forward, a shape ``g`` backward.

    The trainable gate function (Kim et al., AAAI 2020) is ``TG(w) = step(w) + s_M(w) g(w)`` with a sawtooth
    ``s_M`` too small to see and of slope 1; the explicit form used here is the same function in the
    limit and safe in every precision. ``g`` is the slope of a sigmoid at the gate's temperature. How the
    LWDC paper builds its one-hot vector could not be read: the composition, ``g`` and the tie-break
    (the first largest logit) are ours.
    """

    samples = "one"
    expects_one = True

    def sample(self) -> Tensor:
        margin = self.logits - _largest_other(self.logits)
        slope = torch.sigmoid(margin / self.temperature)
        shape = (slope * (1 - slope) / self.temperature).detach()
        # `margin - margin.detach()` is exactly zero: the value is the step, the gradient the shape.
        return shape * (margin - margin.detach()) + one_hot_of(self.logits.detach())

    def expectation(self) -> Tensor:
        return self.sample()


def _largest_other(values: Tensor) -> Tensor:
    """For each entry the largest of the others: ``(n,)``; minus infinity has no place here, so n = 1 gives itself."""
    count = values.numel()
    if count == 1:
        return values.detach()
    others = values.expand(count, count).masked_fill(
        torch.eye(count, dtype=torch.bool, device=values.device), -torch.inf
    )
    return others.amax(dim=1)

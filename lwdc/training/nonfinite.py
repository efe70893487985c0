"""Not finite: losses, gradients and weights that are infinite or no number, looked for on the device."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def all_finite(tensors: Iterable[Tensor]) -> Tensor:
    """Whether every entry of one or more tensors is a finite number: a scalar on their device."""
    return torch.stack([tensor.isfinite().all() for tensor in tensors]).all()


def gradients(optimisers: Iterable[torch.optim.Optimizer]) -> list[Tensor]:
    """Of everything that they train, as far as it has any."""
    groups = (group for optimiser in optimisers for group in optimiser.param_groups)
    return [p.grad for group in groups for p in group["params"] if p.grad is not None]


def first_not_finite(model: nn.Module) -> str | None:
    """The name of a parameter with an entry that is not finite; None if there is none. Waits for the device once."""
    named = [(name, p.detach()) for name, p in model.named_parameters()]
    if not named or bool(all_finite(p for _, p in named)):
        return None
    return next(name for name, p in named if not bool(p.isfinite().all()))

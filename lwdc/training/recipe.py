"""Recipes: how long and with what a network is trained, as plain data and factories."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import Tensor

from lwdc.errors import TrainingError
from lwdc.objectives import CrossEntropy

OptimiserFactory = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]


class Objective(Protocol):
    """A loss from logits, labels and the teacher's logits (None unless ``needs_teacher``)."""

    @property
    def needs_teacher(self) -> bool: ...

    def __call__(self, logits: Tensor, labels: Tensor, teacher: Tensor | None) -> Tensor: ...


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One phase of training. ``schedule`` holds arguments of timm's ``create_scheduler_v2``, in epochs."""

    epochs: int
    batch_size: int
    optim: OptimiserFactory
    schedule: dict[str, Any] = dataclasses.field(default_factory=lambda: {"sched": "cosine"})
    objective: Objective = dataclasses.field(default_factory=CrossEntropy)
    clip_norm: float | None = None  # largest norm of the gradient; None: not clipped

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch_size < 1:
            raise TrainingError(f"epochs must be >= 0 and batch_size >= 1, found {self.epochs} and {self.batch_size}.")

    def scheduler(self, optimiser: torch.optim.Optimizer, steps: int) -> Scheduler:
        """timm's scheduler, stepped once per update; ``steps`` is the number of updates an epoch."""
        try:
            scheduler, _ = create_scheduler_v2(
                optimiser,
                num_epochs=self.epochs,
                step_on_epochs=False,
                updates_per_epoch=steps,
                **self.schedule,
            )
        except (TypeError, ValueError, AssertionError) as error:
            raise TrainingError(
                f"the schedule {self.schedule} cannot be built: {error} timm has cosine, step, poly, constant ..."
            ) from error
        if scheduler is None:
            raise TrainingError(f"{self.schedule.get('sched')!r} is no schedule; constant keeps the learning rate.")
        return scheduler

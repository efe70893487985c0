"""Recipes: how long and with what a network is trained, as plain data and factories."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Protocol

import torch
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import Tensor
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from lwdc.errors import TrainingError
from lwdc.objectives import CrossEntropy

OptimiserFactory = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]


TorchSchedule = Callable[[torch.optim.Optimizer], LRScheduler]


class Objective(Protocol):
    """A loss from logits, labels and the teacher's logits (None unless ``needs_teacher``)."""

    @property
    def needs_teacher(self) -> bool: ...

    def __call__(self, logits: Tensor, labels: Tensor, teacher: Tensor | None) -> Tensor: ...


class TorchScheduler:
    """One of torch's schedulers behind the interface of timm's.

    It is stepped after each epoch, or after each update where torch documents that: ``OneCycleLR`` and ``CyclicLR``.
    """

    def __init__(self, scheduler: LRScheduler, steps: int) -> None:
        self._scheduler = scheduler
        self._every = 1 if isinstance(scheduler, (OneCycleLR, CyclicLR)) else steps

    def step_update(self, num_updates: int) -> None:
        """To be called after each update with the number of those done."""
        if num_updates % self._every == 0:
            self._scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        return self._scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._scheduler.load_state_dict(state)


_STARTS: OptimiserFactory = functools.partial(torch.optim.Adam, lr=0.01)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One phase of training.

    ``schedule`` holds arguments of timm's ``create_scheduler_v2``, in epochs, or makes one of torch's
    schedulers from the optimiser: ``functools.partial(MultiStepLR, milestones=[100, 150])``. A step that is skipped
    leaves weights and statistics as they were and is counted; with more than half of an epoch's, training stops.
    """

    epochs: int
    batch_size: int
    optim: OptimiserFactory
    schedule: Mapping[str, Any] | TorchSchedule = dataclasses.field(default_factory=lambda: {"sched": "cosine"})
    objective: Objective = dataclasses.field(default_factory=CrossEntropy)
    clip_norm: float | None = None  # largest norm of the gradient; None: not clipped
    nonfinite: Literal["stop", "skip"] = "stop"  # at a step whose loss or gradient is not finite
    starts_optim: OptimiserFactory = dataclasses.field(default=_STARTS)  # of epitomes' starts, in shares of their range

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch_size < 1:
            raise TrainingError(f"epochs must be >= 0 and batch_size >= 1, found {self.epochs} and {self.batch_size}.")
        if self.nonfinite not in ("stop", "skip"):
            raise TrainingError(
                f"nonfinite is {self.nonfinite!r}; at a loss that is not finite training can stop or skip the step."
            )

    def check(self, steps: int) -> None:
        """Raise ``TrainingError`` if the optimiser or the schedule cannot be built."""
        try:
            optimiser = self.optim([torch.nn.Parameter(torch.zeros(1))])
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            raise TrainingError(f"the optimiser cannot be built: {error}") from error
        if self.epochs:
            self.scheduler(optimiser, steps)

    def scheduler(self, optimiser: torch.optim.Optimizer, steps: int) -> Scheduler | TorchScheduler:
        """The learning-rate schedule, told of every update; ``steps`` is the number of updates an epoch."""
        if not isinstance(self.schedule, Mapping):
            return TorchScheduler(self._torch_schedule(optimiser), steps)
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
                f"the schedule {dict(self.schedule)} cannot be built: {error} timm has cosine, step, poly, constant ..."
            ) from error
        if scheduler is None:
            raise TrainingError(f"{self.schedule.get('sched')!r} is no schedule; constant keeps the learning rate.")
        return scheduler

    def _torch_schedule(self, optimiser: torch.optim.Optimizer) -> LRScheduler:
        assert callable(self.schedule)
        try:
            scheduler = self.schedule(optimiser)
        except (TypeError, ValueError) as error:
            raise TrainingError(f"the schedule cannot be built: {error}.") from error
        if not isinstance(scheduler, LRScheduler) or isinstance(scheduler, ReduceLROnPlateau):
            raise TrainingError(
                f"a schedule of type {type(scheduler).__name__} cannot be used: a schedule is a function of the step. "
                "Name one of torch.optim.lr_scheduler that needs no metric, or timm's by `sched`."
            )
        return scheduler

"""Recipes: how long and with what a network is trained, as plain data and factories."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from timm.data import Mixup
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


# One call for many small tensors, also on a CPU: one by one they would take several times as long.
_STARTS: OptimiserFactory = functools.partial(torch.optim.Adam, lr=0.01, foreach=True)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One phase of training.

    ``schedule`` holds arguments of timm's ``create_scheduler_v2``, in epochs, or makes one of torch's
    schedulers from the optimiser: ``functools.partial(MultiStepLR, milestones=[100, 150])``. A step that is skipped
    leaves weights and statistics as they were and is counted; with more than half of an epoch's, training stops.

    ``batch_size`` is that of one update: all ranks share it, and ``accumulate`` divides what each of them has.
    """

    epochs: int
    batch_size: int
    optim: OptimiserFactory
    schedule: Mapping[str, Any] | TorchSchedule = dataclasses.field(default_factory=lambda: {"sched": "cosine"})
    objective: Objective = dataclasses.field(default_factory=CrossEntropy)
    clip_norm: float | None = None  # largest norm of the gradient; None: not clipped
    accumulate: int = 1  # pieces that a batch is worked through in, one after the other, where memory is short
    mixup: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # arguments of ``timm.data.Mixup``; {}: none
    ema: float | None = None  # decay of a moving average of the weights, which is evaluated and kept; None: no average
    nonfinite: Literal["stop", "skip"] = "stop"  # at a step whose loss or gradient is not finite
    starts_optim: OptimiserFactory = dataclasses.field(default=_STARTS)  # of epitomes' starts, in shares of their range

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch_size < 1:
            raise TrainingError(f"epochs must be >= 0 and batch_size >= 1, found {self.epochs} and {self.batch_size}.")
        if not isinstance(self.accumulate, int) or self.accumulate < 1:
            raise TrainingError(f"accumulate is a number of pieces of a batch, 1 or more, found {self.accumulate!r}.")
        if self.ema is not None and not (isinstance(self.ema, float) and 0 < self.ema < 1):
            raise TrainingError(f"ema is a decay between 0 and 1, like 0.999, found {self.ema!r}.")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise TrainingError(f"clip_norm is a norm above 0, or null for none; found {self.clip_norm}.")
        if self.nonfinite not in ("stop", "skip"):
            raise TrainingError(
                f"nonfinite is {self.nonfinite!r}; at a loss that is not finite training can stop or skip the step."
            )
        self.check_ranks(1)

    def check_ranks(self, ranks: int) -> None:
        """Raise ``TrainingError`` if a batch does not have an example for every piece on every rank."""
        if self.batch_size < ranks * self.accumulate:
            among = f"{ranks} processes" if ranks > 1 else "one process"
            raise TrainingError(
                f"a batch of {self.batch_size} cannot be shared by {among} in {self.accumulate} piece(s) each: "
                "batch_size is that of all together; make it larger, or use fewer devices or pieces."
            )

    def check_precision(self, *, scaled: bool) -> None:
        """Raise ``TrainingError`` if steps shall be skipped where the loss is ``scaled``, which skips by itself."""
        if self.nonfinite == "skip" and scaled:
            raise TrainingError(
                "with precision 16-mixed steps that overflow are skipped by the scaling of the loss. Leave out "
                "nonfinite=skip, or use bf16-mixed."
            )

    def mixing(self, num_classes: int, ranks: int, input_size: Sequence[int]) -> Mixup | None:
        """What mixes inputs and labels of a batch, if anything. Raises ``TrainingError`` if it cannot be built."""
        if not self.mixup:
            return None
        try:
            # Labels are smoothed by the objective, where that is asked for.
            mixup = Mixup(**{"label_smoothing": 0.0, **self.mixup}, num_classes=num_classes)
            assert mixup.mixup_enabled and (mixup.mixup_alpha > 0 or mixup.cutmix_alpha > 0), "no alpha is above 0"
        except (TypeError, ValueError, AssertionError) as error:
            raise TrainingError(f"mixup={dict(self.mixup)} is refused by timm.data.Mixup: {error}.") from error
        if mixup.cutmix_alpha > 0 and len(input_size) != 3:
            raise TrainingError("cutmix cuts rectangles, and the inputs are no images: take mixup_alpha alone.")
        if self.batch_size % (2 * ranks):
            raise TrainingError(
                f"mixup mixes pairs of images of one device: batch_size={self.batch_size} is not a multiple of "
                f"{2 * ranks}."
            )
        return mixup

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

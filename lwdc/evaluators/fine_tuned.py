"""Fine-tuned: an architecture that begins with the supernet's weights and trains a little on its own."""

import copy
import dataclasses
import functools
import math

import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from lwdc.architecture import Architecture
from lwdc.candidates.sampling import advance_starts
from lwdc.evaluators.base import Subject
from lwdc.evaluators.shared_weights import check_options
from lwdc.surgery import discretise
from lwdc.training import Fit, StepRecord, accuracy, recalibrate


@dataclasses.dataclass(frozen=True)
class FineTuned:
    """``steps`` of the recipe of fine-tuning on a discretised copy, its learning rate rising and falling once.

    Batch norms are then re-estimated on ``batches`` of training; accuracy is that on the first ``images`` of the
    validation split; None: on all.
    """

    steps: int = 100
    images: int | None = 2000
    batches: int = 20

    def __post_init__(self) -> None:
        check_options(self.images, batches=self.batches, steps=self.steps)

    def __call__(self, subject: Subject, architecture: Architecture, seed: int) -> float:
        network, _ = discretise(subject.supernet, architecture)
        train(network, subject, self.steps, seed)
        recalibrate(network, subject.train_batches(self.batches, seed), self.batches, subject.fabric)
        return accuracy(network, subject.held_out(self.images), subject.fabric)


def train(network: nn.Module, subject: Subject, steps: int, seed: int) -> None:
    """So many steps of the subject's recipe, in place, on a schedule of their own."""
    recipe = dataclasses.replace(
        subject.recipe,
        epochs=math.ceil(steps / subject.data.steps(subject.recipe.batch_size)),
        schedule=functools.partial(_once, steps=steps),
        ema=None,
    )
    teacher = copy.deepcopy(subject.baseline) if recipe.objective.needs_teacher else None
    fit = Fit("evaluation", network, subject.data, recipe, seed=seed, fabric=subject.fabric, teacher=teacher)
    taken = 0
    for record in fit.run():
        taken += isinstance(record, StepRecord)
        advance_starts(network, taken / steps)  # of the steps asked for, which may be few of an epoch's
        if taken >= steps:
            break


def _once(optimiser: torch.optim.Optimizer, *, steps: int) -> OneCycleLR:
    largest = [group["lr"] for group in optimiser.param_groups]
    return OneCycleLR(optimiser, largest, total_steps=steps + 1, pct_start=0.1, cycle_momentum=False)

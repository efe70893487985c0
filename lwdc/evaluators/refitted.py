"""Refitted: an architecture with the supernet's weights, solved layer by layer, without any training of its own."""

import dataclasses

import torch

from lwdc.architecture import Architecture
from lwdc.errors import LwdcError
from lwdc.evaluators.base import Subject
from lwdc.evaluators.shared_weights import check_options
from lwdc.refitting import fitting, refit
from lwdc.surgery import discretise
from lwdc.training import accuracy, recalibrate


@dataclasses.dataclass(frozen=True)
class Refitted:
    """A discretised copy, refitted to the original network on ``examples`` of training (2 or more), or on fewer large
    ones.

    Batch norms are then re-estimated on ``batches`` of training; accuracy is that on the first ``images`` of the
    validation split; None: on all. In a supernet that was not trained (``strategy.epochs=0``) operators are what they
    have inherited: much like what fine-tuning will begin with, and no training is needed before the search. Ours.
    """

    examples: int = 256
    images: int | None = 2000
    batches: int = 10

    def __post_init__(self) -> None:
        check_options(self.images, batches=self.batches, examples=self.examples)
        if self.examples < 2:
            raise LwdcError(f"an evaluator refits on two examples or more, found {self.examples}.")

    def __call__(self, subject: Subject, architecture: Architecture, seed: int) -> float:
        network, _ = discretise(subject.supernet, architecture)
        most = fitting(self.examples, subject.data.input_size)
        enough = -(-most // subject.recipe.batch_size)
        examples = torch.cat([images for images, _ in subject.train_batches(enough, seed)])[:most]
        refit(network, subject.baseline, architecture, examples)
        recalibrate(network, subject.train_batches(self.batches, seed), self.batches, subject.fabric)
        return accuracy(network, subject.held_out(self.images), subject.fabric)

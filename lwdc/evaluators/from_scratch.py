"""From scratch: an architecture trained from fresh weights, as slow as it is trustworthy."""

import dataclasses

from lwdc.architecture import Architecture
from lwdc.evaluators.base import Subject
from lwdc.evaluators.fine_tuned import train
from lwdc.evaluators.shared_weights import check_options
from lwdc.surgery import rebuild
from lwdc.training import accuracy


@dataclasses.dataclass(frozen=True)
class FromScratch:
    """``epochs`` of the recipe of fine-tuning from fresh weights, the learning rate rising and falling once.

    Accuracy is that on the first ``images`` of the validation split; None: on all.
    """

    epochs: int = 30
    images: int | None = None

    def __post_init__(self) -> None:
        check_options(self.images, epochs=self.epochs)

    def __call__(self, subject: Subject, architecture: Architecture, seed: int) -> float:
        fresh = subject.fresh().to(subject.fabric.device)
        network = rebuild(fresh, architecture, subject.data.input_size)
        train(network, subject, self.epochs * subject.data.steps(subject.recipe.batch_size), seed)
        return accuracy(network, subject.held_out(self.images), subject.fabric)

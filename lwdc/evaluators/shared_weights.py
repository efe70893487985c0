"""Shared weights: an architecture as the supernet holds it, without any training of its own."""

import dataclasses

from lwdc.architecture import Architecture
from lwdc.errors import LwdcError
from lwdc.evaluators.base import Subject
from lwdc.surgery import discretise
from lwdc.training import accuracy, recalibrate


@dataclasses.dataclass(frozen=True)
class SharedWeights:
    """The architecture's network with the supernet's weights, batch norms re-estimated on ``batches`` of training.

    Accuracy is that on the first ``images`` of the validation split; None: on all.
    """

    images: int | None = 2000
    batches: int = 20

    def __post_init__(self) -> None:
        check_options(self.images, batches=self.batches)

    def __call__(self, subject: Subject, architecture: Architecture, seed: int) -> float:
        network, _ = discretise(subject.supernet, architecture)
        recalibrate(network, subject.train_batches(self.batches, seed), self.batches, subject.fabric)
        return accuracy(network, subject.held_out(self.images), subject.fabric)


def check_options(images: int | None, **counts: int) -> None:
    """Raises ``LwdcError`` unless ``images`` is a number from 1 on, or None, and the others are from 0 on."""
    for name, value, least in (("images", images, 1), *((name, count, 0) for name, count in counts.items())):
        if name == "images" and value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise LwdcError(f"an evaluator's {name} is a number from {least} on, found {value!r}.")

"""What every evaluator promises: an accuracy on held-out training images, which hangs on the architecture alone."""

import dataclasses
import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import nn

from lwdc.architecture import Architecture
from lwdc.data import Batch, DataModule
from lwdc.data.seeding import seed_all
from lwdc.errors import DataError, LwdcError, TrainingError, WriteError
from lwdc.training import Recipe
from lwdc.training.fit import derive_seed


@dataclasses.dataclass(frozen=True)
class Subject:
    """What architectures are evaluated on. No evaluator changes any of it."""

    supernet: nn.Module  # trained by sampling paths
    baseline: nn.Module  # the original network, trained: the teacher
    fresh: Callable[[], nn.Module]  # the original network with fresh weights
    data: DataModule
    recipe: Recipe  # with which networks are trained, if they are
    seed: int
    fabric: Fabric

    def train_batches(self, most: int, seed: int) -> Iterator[Batch]:
        """The first augmented training batches, without end over the epochs."""
        found = 0
        for epoch in range(most):
            for batch in self.data.train(seed=seed, epoch=epoch, batch_size=self.recipe.batch_size):
                if found == most:
                    return
                found += 1
                yield batch

    def held_out(self, most: int | None) -> Iterator[Batch]:
        """Of the validation split the first ``most`` examples, or all."""
        left = math.inf if most is None else most
        for images, labels in self.data.batches("valid", self.recipe.batch_size):
            count = int(min(left, len(labels)))
            yield images[:count], labels[:count]
            left -= count
            if left <= 0:  # the rest is not even read
                return


class Evaluator(Protocol):
    """A frozen dataclass of options; its class and its ``repr`` tell its evaluations from those of others."""

    def __call__(self, subject: Subject, architecture: Architecture, seed: int) -> float:
        """Top-1 accuracy in [0, 1] on the validation split. All that is random comes from ``seed``.

        Raises an ``LwdcError`` or a ``RuntimeError`` where the architecture cannot be evaluated: a failed evaluation.
        """


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What became of one evaluation: an accuracy, or why there is none."""

    accuracy: float | None
    seconds: float
    error: str | None = None


def evaluate(evaluator: Evaluator, subject: Subject, architecture: Architecture) -> Evaluation:
    """One evaluation, the same whatever was evaluated before it.

    What makes an architecture fail is part of the answer; what would make every other one fail too, as images that
    cannot be read, is raised.
    """
    clock = time.perf_counter()
    seed = derive_seed(subject.seed, f"evaluate {canonical(architecture)}", 0)
    seed_all(seed)
    try:
        accuracy = evaluator(subject, architecture, seed)
        if not _is_share(accuracy):
            raise TrainingError(f"the accuracy is {accuracy}; an accuracy is a share in [0, 1]")
    except (DataError, WriteError):
        raise
    except (LwdcError, RuntimeError) as error:
        reason = (" ".join(str(error).split()) or type(error).__name__)[:_LONGEST]
        return Evaluation(None, time.perf_counter() - clock, reason)
    return Evaluation(float(accuracy), time.perf_counter() - clock)


def _is_share(accuracy: Any) -> bool:
    try:
        return 0 <= float(accuracy) <= 1
    except (TypeError, ValueError):
        return False


_LONGEST = 500  # characters of a reason


def canonical(architecture: Architecture) -> str:
    """The architecture as one line of text, the same whatever the order of its sites."""
    return json.dumps({site: dict(choice) for site, choice in architecture.choices.items()}, sort_keys=True)


def identity(evaluator: Evaluator) -> str:
    """What tells an evaluator's evaluations from those of others: its class and options, as text.

    Raises ``LwdcError`` where its ``repr`` does not say its options but where it lies in memory.
    """
    text = repr(evaluator)
    if _ADDRESS.search(text):
        raise LwdcError(
            f"evaluator {text:.200} does not say by which options it evaluates, so that what it finds cannot be told "
            "from what others find: make it a frozen dataclass, whose fields are plain data."
        )
    kind = type(evaluator)
    own = kind.__module__.partition(".")[0] == __name__.partition(".")[0]
    return text if own else f"{kind.__module__}.{kind.__qualname__} {text}"


def fingerprint(evaluator: Evaluator, subject: Subject) -> str:
    """What an evaluation hangs on besides the architecture, as a short text: options, network, data and recipe.

    Of the data it looks at their number, a batch of training and the first examples held out. Raises ``LwdcError``
    as ``identity`` does.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(identity(evaluator).encode() + b"\0")
    data = subject.data.name, subject.data.num_train()
    network = subject.baseline  # Its text tells what weights do not, such as activations.
    for part in (network, subject.recipe, subject.seed, data, subject.fabric.strategy.precision.precision):
        digest.update(_ADDRESS.sub("", repr(part)).encode() + b"\0")
    tensors = [*subject.supernet.state_dict().items(), *subject.baseline.state_dict().items()]
    batches = [*subject.train_batches(1, subject.seed), *subject.held_out(_LOOKED_AT)]
    tensors += [(part, tensor) for batch in batches for part, tensor in zip(("inputs", "labels"), batch, strict=True)]
    for name, tensor in tensors:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + b"\0")
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


_LOOKED_AT = 256
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")

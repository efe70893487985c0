"""DataModule: what training asks of a data set."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from lwdc.data.preprocessing import Preprocessing
from lwdc.data.shard import WHOLE, Shard
from lwdc.errors import DataError

Batch = tuple[Tensor, Tensor]  # inputs (B, *input_size) float32 normalised, labels (B,) int64; both on the device

SPLITS = ("train", "valid", "test")


class DataModule(ABC):
    """A data set in three splits. ``prepare`` comes first, once for a device."""

    name: str
    class_names: tuple[str, ...]
    preprocessing: Preprocessing

    @property
    def input_size(self) -> tuple[int, ...]:
        return self.preprocessing.input_size

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def steps(self, batch_size: int) -> int:
        """Full training batches an epoch; a last smaller one is left out. ``DataError`` if there is none."""
        if batch_size < 1:
            raise DataError(f"the batch size is {batch_size}; it must be at least 1.")
        if batch_size > self.num_train():
            raise DataError(
                f"the batch size is {batch_size}, {self.name} has {self.num_train()} training examples; "
                "make the batches smaller."
            )
        return self.num_train() // batch_size

    @abstractmethod
    def prepare(self, device: torch.device) -> None:
        """Reads, splits and checks the data, in place. ``DataError`` for whatever would fail later."""

    def notes(self) -> tuple[str, ...]:
        """After ``prepare``: what a run should say of the data before it begins, such as files that are left out."""
        return ()

    def unreadable_files(self) -> tuple[str, ...]:
        """Files met so far that could not be read and were left out, where data does not stop there."""
        return ()

    @abstractmethod
    def num_train(self) -> int:
        """Training examples, without those held out for validation."""

    @abstractmethod
    def train(
        self, *, seed: int, epoch: int, batch_size: int, start: int = 0, shard: Shard = WHOLE
    ) -> Iterator[Batch]:  # fmt: skip
        """Augmented batches of one epoch, from step ``start`` on, of each the examples in ``shard``.

        Step ``s`` depends on ``(seed, epoch, s)`` only, whatever ``start`` and the number of workers; the shards
        of a step are together the batch that one process would see.
        """

    @abstractmethod
    def batches(self, split: str, batch_size: int, shard: Shard = WHOLE) -> Iterator[Batch]:
        """All examples of ``"train"``, ``"valid"`` or ``"test"``, in a fixed order, not augmented.

        Of each batch the examples in ``shard``; a batch without any is left out.
        """


def check_split(split: str) -> None:
    """Raises ``DataError`` for a name that is no split."""
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}. Known: {', '.join(SPLITS)}.")


def told(value: object) -> str:
    """What was given in the place of a tensor."""
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def check_labels(labels: Tensor, num_classes: int, where: str) -> None:
    """Raises ``DataError`` unless labels are int64 ``(N,)``, in ``[0, num_classes)``, and there are some."""
    if isinstance(labels, Tensor) and labels.numel() == 0:
        raise DataError(f"{where} holds no examples; check that it is complete.")
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.ndim != 1:
        raise DataError(f"{where} has labels that are {told(labels)}; they are a tensor of int64 and of shape (N,).")
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= num_classes:
        raise DataError(
            f"{where} has labels from {lowest} to {highest}, its classes are 0 to {num_classes - 1}; "
            "check that the file belongs to this data set."
        )

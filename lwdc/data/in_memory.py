"""InMemory: small sets held on the device as they are stored, with batches formed there as tensors."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lwdc.data.augmentation import Augmentation
from lwdc.data.base import Batch, DataModule, check_labels, check_split, told
from lwdc.data.preprocessing import Preprocessing
from lwdc.data.seeding import generator
from lwdc.data.shard import WHOLE, Shard
from lwdc.data.splits import hold_out, keep_at_most
from lwdc.errors import DataError


@dataclass(frozen=True)
class Labelled:
    """Inputs as stored, integers ``(N, *input_size)``, and their labels, int64 ``(N,)``.

    Inputs may be floats where the preprocessing's scale is 1.

    ``groups``, int64 ``(N,)``, numbers what examples were taken from, such as one long recording; those of
    one group are never parted between training and validation.
    """

    inputs: Tensor
    labels: Tensor
    groups: Tensor | None = None

    def __getitem__(self, indices: Tensor | slice) -> "Labelled":
        groups = None if self.groups is None else self.groups[indices]
        return Labelled(self.inputs[indices], self.labels[indices], groups)

    def to(self, device: torch.device) -> "Labelled":
        groups = None if self.groups is None else self.groups.to(device)
        return Labelled(self.inputs.to(device), self.labels.to(device), groups)


class InMemory(DataModule):
    """A data set that fits into the device's memory; a subclass says what it is and how to read it.

    ``augmentation`` changes training examples. ``valid`` of them are held out for validation, at most
    ``limit_train`` of the others kept, both stratified.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        *,
        augmentation: Augmentation,
        valid: int,
        limit_train: int | None,
        split_seed: int,
    ) -> None:
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.valid = valid
        self.limit_train = limit_train
        self.split_seed = split_seed
        self._splits: dict[str, Labelled] = {}

    @abstractmethod
    def read(self) -> tuple[Labelled, Labelled]:
        """The training and the test examples, on the CPU. ``DataError`` if they are missing or damaged."""

    def prepare(self, device: torch.device) -> None:
        if not self._splits:
            self._splits = self._read_splits()
        self._splits = {name: split.to(device) for name, split in self._splits.items()}

    def num_train(self) -> int:
        return len(self._split("train").labels)

    def train(
        self, *, seed: int, epoch: int, batch_size: int, start: int = 0, shard: Shard = WHOLE
    ) -> Iterator[Batch]:  # fmt: skip
        return self._train(generator(seed, epoch), batch_size, range(start, self.steps(batch_size)), shard)

    def batches(self, split: str, batch_size: int, shard: Shard = WHOLE) -> Iterator[Batch]:
        data = self._split(split)
        for first in range(0, len(data.labels), batch_size):
            part = data[slice(first, first + batch_size)][shard.slice]
            if len(part.labels):
                yield self.preprocessing.normalise(part.inputs), part.labels

    def _train(self, rng: torch.Generator, batch_size: int, steps: range, shard: Shard) -> Iterator[Batch]:
        data = self._split("train")
        device, count = data.labels.device, len(data.labels)
        # All of the epoch's draws at once, in the order of the epoch: a step only looks its own up.
        order = torch.randperm(count, generator=rng).to(device)
        drawn = [draws.to(device) for draws in self.augmentation.draw(count, rng)]
        for step in steps:
            now = slice(step * batch_size + shard.index, (step + 1) * batch_size, shard.count)
            batch = data[order[now]]
            inputs = self.augmentation(batch.inputs, *(draws[now] for draws in drawn))
            yield self.preprocessing.normalise(inputs), batch.labels

    def _split(self, name: str) -> Labelled:
        check_split(name)
        if not self._splits:
            raise DataError(f"{self.name} has not been read yet; call prepare(device) first.")
        return self._splits[name]

    def _read_splits(self) -> dict[str, Labelled]:
        own = type(self).__name__
        if not isinstance(getattr(self, "name", None), str) or not getattr(self, "class_names", ()):
            raise DataError(f"{own} says no name or no class_names: give it both, a text and a tuple of texts.")
        if not callable(getattr(self.augmentation, "draw", None)):
            raise DataError(
                f"the augmentation of {own} is {self.augmentation!r:.100}: give one of lwdc.data, like "
                "CropAndFlip(0, flip=False), which changes nothing."
            )
        found = self.read()
        pair = isinstance(found, tuple) and len(found) == 2 and all(isinstance(part, Labelled) for part in found)
        if not pair:
            raise DataError(
                f"{own}.read gave {_kinds(found)}; it gives two Labelled, the training and the test examples."
            )
        full, test = found
        for split, part in (("training", full), ("test", test)):
            self._check(part, f"the {split} set of {self.name}")
        indices, held_out = hold_out(full.labels, self.valid, seed=self.split_seed, groups=full.groups)
        train = full[indices]
        train = train[keep_at_most(train.labels, self.limit_train, seed=self.split_seed)]
        return {"train": train, "valid": full[held_out], "test": test}

    def _check(self, part: Labelled, where: str) -> None:
        check_labels(part.labels, self.num_classes, where)
        if not isinstance(part.inputs, Tensor):
            raise DataError(f"{where} has inputs that are {told(part.inputs)}; they are a tensor.")
        if part.inputs.dtype.is_floating_point and self.preprocessing.scale != 1:
            raise DataError(
                f"{where} has inputs that are {told(part.inputs)}, and preprocessing has a scale of "
                f"{self.preprocessing.scale}: give the integers as stored, or a scale of 1."
            )
        if len(part.inputs) != len(part.labels):
            raise DataError(
                f"{where} has {len(part.inputs)} examples and {len(part.labels)} labels; a file is incomplete."
            )
        if part.inputs.shape[1:] != self.input_size:
            raise DataError(
                f"{where} has examples of {tuple(part.inputs.shape[1:])}, {self.input_size} were expected; "
                "check that the file belongs to this data set."
            )


def _kinds(found: object) -> str:
    """What was read, in words."""
    kinds = [type(part).__name__ for part in found] if isinstance(found, tuple) else []
    return f"({', '.join(kinds)})" if kinds else f"a {type(found).__name__}"

"""InMemory: small image sets held on the device as bytes, with batches formed there as tensors."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lwdc.data.base import Batch, DataModule, check_labels, check_split
from lwdc.data.preprocessing import Preprocessing
from lwdc.data.seeding import generator
from lwdc.data.splits import hold_out, keep_at_most
from lwdc.errors import DataError


@dataclass(frozen=True)
class Labelled:
    """Images as stored, uint8 ``(N, C, H, W)``, and their labels, int64 ``(N,)``."""

    images: Tensor
    labels: Tensor

    def __getitem__(self, indices: Tensor | slice) -> "Labelled":
        return Labelled(self.images[indices], self.labels[indices])

    def to(self, device: torch.device) -> "Labelled":
        return Labelled(self.images.to(device), self.labels.to(device))


class InMemory(DataModule):
    """A data set that fits into the device's memory; a subclass says what it is and how to read it.

    Training images are augmented as CIFAR usually is: ``crop_padding`` black pixels on every side and a
    random crop of the old size, then, if ``flip``, a mirror image with probability 1/2. ``valid`` of the
    training images are held out for validation, at most ``limit_train`` of the others kept, both stratified.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        *,
        crop_padding: int,
        flip: bool,
        valid: int,
        limit_train: int | None,
        split_seed: int,
    ) -> None:
        if crop_padding < 0:
            raise DataError(f"crop_padding is {crop_padding}; it is a number of pixels, 0 or more.")
        self.preprocessing = preprocessing
        self.crop_padding = crop_padding
        self.flip = flip
        self.valid = valid
        self.limit_train = limit_train
        self.split_seed = split_seed
        self._splits: dict[str, Labelled] = {}

    @abstractmethod
    def read(self) -> tuple[Labelled, Labelled]:
        """The training and the test images, on the CPU. ``DataError`` if they are missing or damaged."""

    def prepare(self, device: torch.device) -> None:
        if not self._splits:
            self._splits = self._read_splits()
        self._splits = {name: split.to(device) for name, split in self._splits.items()}

    def num_train(self) -> int:
        return len(self._split("train").labels)

    def train(self, *, seed: int, epoch: int, batch_size: int, start: int = 0) -> Iterator[Batch]:
        return self._train(generator(seed, epoch), batch_size, range(start, self.steps(batch_size)))

    def batches(self, split: str, batch_size: int) -> Iterator[Batch]:
        data = self._split(split)
        for first in range(0, len(data.labels), batch_size):
            part = data[slice(first, first + batch_size)]
            yield self.preprocessing.normalise(part.images), part.labels

    def _train(self, rng: torch.Generator, batch_size: int, steps: range) -> Iterator[Batch]:
        data = self._split("train")
        device, count = data.labels.device, len(data.labels)
        # All of the epoch's draws at once, in the order of the epoch: a step only looks its own up.
        order = torch.randperm(count, generator=rng).to(device)
        corners = torch.randint(0, 2 * self.crop_padding + 1, (count, 2), generator=rng).to(device)
        flipped = (torch.rand(count, generator=rng) < 0.5).to(device)
        for step in steps:
            now = slice(step * batch_size, (step + 1) * batch_size)
            batch = data[order[now]]
            images = batch.images
            if self.crop_padding or self.flip:
                images = crop_and_flip(images, self.crop_padding, corners[now], flipped[now] & self.flip)
            yield self.preprocessing.normalise(images), batch.labels

    def _split(self, name: str) -> Labelled:
        check_split(name)
        if not self._splits:
            raise DataError(f"{self.name} has not been read yet; call prepare(device) first.")
        return self._splits[name]

    def _read_splits(self) -> dict[str, Labelled]:
        full, test = self.read()
        for split, part in (("training", full), ("test", test)):
            self._check(part, f"the {split} set of {self.name}")
        indices, held_out = hold_out(full.labels, self.valid, seed=self.split_seed)
        train = full[indices]
        train = train[keep_at_most(train.labels, self.limit_train, seed=self.split_seed)]
        return {"train": train, "valid": full[held_out], "test": test}

    def _check(self, part: Labelled, where: str) -> None:
        check_labels(part.labels, self.num_classes, where)
        if len(part.images) != len(part.labels):
            raise DataError(
                f"{where} has {len(part.images)} images and {len(part.labels)} labels; a file is incomplete."
            )
        if part.images.shape[1:] != self.input_size:
            raise DataError(
                f"{where} has images of {tuple(part.images.shape[1:])}, {self.input_size} were expected; "
                "check that the file belongs to this data set."
            )


def crop_and_flip(images: Tensor, padding: int, corners: Tensor, flipped: Tensor) -> Tensor:
    """Windows of the images' own size out of the padded images ``(B, C, H, W)``, mirrored where ``flipped``.

    ``corners`` (B, 2) are the windows' top and left, from 0 to ``2 * padding``; ``flipped`` is (B,) bool.
    """
    count, channels, height, width = images.shape
    rows = corners[:, :1] + torch.arange(height, device=images.device)  # (B, H)
    columns = corners[:, 1:] + torch.arange(width, device=images.device)  # (B, W)
    columns = torch.where(flipped[:, None], columns.flip(1), columns)
    # One gather over flat pixels: 1.7 times as fast on a CPU as slicing windows and flipping them.
    pixels = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]  # (B, H, W)
    pixels = pixels.view(count, 1, -1).expand(-1, channels, -1)
    padded = F.pad(images, (padding,) * 4).view(count, channels, -1)
    return padded.gather(2, pixels).view_as(images)

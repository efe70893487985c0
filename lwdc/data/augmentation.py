"""Augmentation: random changes of training examples, drawn for a whole epoch before its first step."""

import dataclasses
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from lwdc.errors import DataError


class Augmentation(ABC):
    """Draws first and changes later, so that a step of an epoch only looks its own draws up."""

    @abstractmethod
    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, ...]:
        """All that ``count`` examples need: tensors on the CPU with one entry an example."""

    @abstractmethod
    def __call__(self, inputs: Tensor, *drawn: Tensor) -> Tensor:
        """The batch of stored values changed as drawn, of the same shape; ``inputs`` is left as it was."""


@dataclasses.dataclass(frozen=True)
class CropAndFlip(Augmentation):
    """Images as CIFAR's usually are: ``padding`` black pixels on every side and a random crop of the old size.

    Then, if ``flip``, a mirror image with probability 1/2.
    """

    padding: int
    flip: bool

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise DataError(f"crop_padding is {self.padding}; it is a number of pixels, 0 or more.")

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, ...]:
        corners = torch.randint(0, 2 * self.padding + 1, (count, 2), generator=rng)
        return corners, torch.rand(count, generator=rng) < 0.5

    def __call__(self, inputs: Tensor, *drawn: Tensor) -> Tensor:
        corners, flipped = drawn
        if not (self.padding or self.flip):
            return inputs
        return crop_and_flip(inputs, self.padding, corners, flipped & self.flip)


@dataclasses.dataclass(frozen=True)
class ShiftAndGain(Augmentation):
    """Clips moved in time by up to ``shift`` samples either way, zeros moving in, and louder or softer.

    The gain is even in decibels, from ``-gain_db`` to ``gain_db``.
    """

    shift: int
    gain_db: float

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise DataError(f"shift is {self.shift}; it is a number of samples, 0 or more.")
        if self.gain_db < 0:
            raise DataError(f"gain_db is {self.gain_db}; it is the largest gain in decibels, 0 or more.")

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, ...]:
        starts = torch.randint(0, 2 * self.shift + 1, (count,), generator=rng)
        decibels = (2 * torch.rand(count, generator=rng) - 1) * self.gain_db
        return starts, 10 ** (decibels / 20)

    def __call__(self, inputs: Tensor, *drawn: Tensor) -> Tensor:
        starts, gains = drawn
        clips = shift(inputs, self.shift, starts) if self.shift else inputs
        return clips * gains[:, None, None] if self.gain_db else clips


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


def shift(clips: Tensor, padding: int, starts: Tensor) -> Tensor:
    """Windows of the clips' own length out of the padded clips ``(B, C, L)``, from ``starts`` (B,) on."""
    samples = starts[:, None] + torch.arange(clips.shape[2], device=clips.device)  # (B, L)
    return F.pad(clips, (padding, padding)).gather(2, samples[:, None].expand(-1, clips.shape[1], -1))

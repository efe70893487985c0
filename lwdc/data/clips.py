"""Clips: a set of wav files, held in memory as mono clips of one rate and length."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from lwdc.data.augmentation import ShiftAndGain
from lwdc.data.in_memory import InMemory, Labelled
from lwdc.data.preprocessing import Preprocessing
from lwdc.data.wav import centre, read_wav
from lwdc.errors import DataError


class Clips(InMemory):
    """16-bit sound below ``root`` as inputs ``(1, length)``; other rates are resampled.

    A clip of another length is centred: zeros at both ends, or its middle. Training clips are moved in time
    by up to ``shift`` samples and made louder or softer by up to ``gain_db`` decibels, at random.
    """

    sample_rate: ClassVar[int]  # Hz
    usual_mean: ClassVar[float] = 0.0  # of the training clips, scaled to [-1, 1]
    usual_std: ClassVar[float]

    def __init__(
        self,
        root: Path | str,
        *,
        length: int,
        shift: int,
        gain_db: float,
        valid: int,
        limit_train: int | None,
        split_seed: int,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
    ) -> None:
        if length < 1:
            raise DataError(f"length is {length}; it is a number of samples, 1 or more.")
        super().__init__(
            Preprocessing(
                (1, length),
                channel_order="mono",
                scale=1 / 32768,
                mean=tuple(mean or (self.usual_mean,)),
                std=tuple(std or (self.usual_std,)),
                sample_rate=self.sample_rate,
                fit="centre",
            ),
            augmentation=ShiftAndGain(shift, gain_db),
            valid=valid,
            limit_train=limit_train,
            split_seed=split_seed,
        )
        self.root = Path(root)

    def load(self, files: Sequence[Path], labels: Sequence[int], groups: Sequence[int] | None = None) -> Labelled:
        """The clips of these files. ``DataError`` for the first that cannot be read."""
        length = self.input_size[1]
        clips = np.zeros((len(files), 1, length), np.int16)
        for clip, file in zip(clips, files, strict=True):
            clip[0] = centre(read_wav(file, self.sample_rate), length)
        return Labelled(torch.from_numpy(clips), torch.tensor(labels), None if groups is None else torch.tensor(groups))

"""Small wav files in the real layouts."""

import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

WriteWav = Callable[..., Path]


@pytest.fixture(scope="session")
def write_wav() -> WriteWav:
    """``write_wav(path, samples, rate=8000, width=2, channels=1)``: the samples as they are stored."""

    def write(path: Path, samples: np.ndarray, rate: int = 8000, width: int = 2, channels: int = 1) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setparams((channels, width, rate, 0, "NONE", "not compressed"))
            file.writeframes(samples.astype({1: np.uint8, 2: "<i2", 4: "<i4"}[width]).tobytes())
        return path

    return write

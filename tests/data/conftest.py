"""Small wav files, images and tar files in the real layouts."""

import io
import tarfile
import wave
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WriteWav = Callable[..., Path]
WriteTar = Callable[..., Path]


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


@pytest.fixture(scope="session")
def image_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``train`` and ``val`` with 11 and 3 images in each of three classes, of whose names 10 comes after 9."""
    root = tmp_path_factory.mktemp("tree")
    rng = np.random.default_rng(0)
    for split, count in (("train", 11), ("val", 3)):
        for name in ("cat", "dog", "emu"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (20 + i, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def write_tar() -> WriteTar:
    """``write_tar(path, {"name": b"content"})``: a tar file of these members, in this order."""

    def write(path: Path, contents: Mapping[str, bytes], kind: int = tarfile.PAX_FORMAT) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w", format=kind) as made:
            for name, content in contents.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                made.addfile(member, io.BytesIO(content))
        return path

    return write

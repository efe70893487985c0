"""WebDataset: images and labels in numbered tar files (shards), as the webdataset library and timm write them."""

import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lwdc.data.class_folders import EXTENSIONS, natural
from lwdc.data.images import Images
from lwdc.data.tar_members import Member, TarImages, members
from lwdc.errors import DataError
from lwdc.files import read_json, read_text


class WebDataset(Images):
    """Shards below ``root``, whose samples are members of one name: ``KEY.jpg`` and beside it ``KEY.cls``, its label.

    A split is named by a pattern of shards (``train-{0000..0063}.tar``, ``train-*.tar``), or by its name in timm's
    ``_info.json``, by which shards are then counted; without that file ``train`` means ``train-*.tar``. Labels are
    whole numbers. Classes are called by the lines of ``classnames.txt`` if it lies in ``root``, else by their labels.

    The samples of a shard are not streamed one after the other: every header is read once, in ``prepare``, by every
    process of a run, and images are then read where they lie. A stream, timm's or the webdataset library's, shuffles
    through buffers of its own in every worker: its order hangs on their number and on that of the devices, needs shards
    for each of them, and is found again in the middle of an epoch only by reading up to there. Here an epoch is an
    exact shuffle of all samples, whatever the shards, and a run goes on at any step, with any number of workers and
    devices; with samples in a folder's order, its batches are the folder's, bit for bit. The price is the pass over
    the headers, and reads in no order, which a disk that must seek is slow at. Only files on disk are read, no URLs.
    """

    def source(self, name: str) -> TarImages:
        shards, counts = self._shards(name)
        where = f"{shards[0]}" if len(shards) == 1 else f"{shards[0]} to {shards[-1].name}"
        images: list[Member] = []
        labels: list[int] = []
        for shard, count in zip(shards, counts, strict=True):
            before = len(images)
            for image, label in _samples(shard):
                images.append(image)
                labels.append(label)
            if count not in (None, len(images) - before):
                raise DataError(
                    f"{shard} has {len(images) - before} samples, {self._info().name} says {count}; fetch it again."
                )
        if not images:
            raise DataError(f"{where}: no samples in there.")
        classes, numbers = self._numbered(labels, where)
        return TarImages.of(images, numbers, classes, where)

    def _shards(self, name: str) -> tuple[list[Path], Sequence[int | None]]:
        """The files of a split in order, and how many samples each has if that is known."""
        info = self._info()
        if ".tar" not in name and os.path.lexists(info):
            return _listed(info, name)
        pattern = name if ".tar" in name else f"{name}-*.tar"
        shards = [path for one in expand_braces(pattern) for path in self._matching(one)]
        return shards, [None] * len(shards)

    def _matching(self, pattern: str) -> list[Path]:
        found = [self.root / pattern]
        if "*" in pattern or "?" in pattern:
            found = [Path(path) for path in glob.glob(str(Path(glob.escape(str(self.root)), pattern)))]
            found.sort(key=lambda path: natural(str(path)))
        if not found or not found[0].exists():
            raise DataError(
                f"no shard {self.root / pattern}; set data.root to the folder that holds them, and data.train, "
                "data.valid and data.test to patterns such as 'train-{0000..0063}.tar' or train-*.tar."
            )
        return found

    def _info(self) -> Path:
        old = self.root / "info.json"
        return old if os.path.lexists(old) else self.root / "_info.json"

    def _numbered(self, labels: list[int], where: str) -> tuple[list[str], list[int]]:
        """Class names, and for each label which of them."""
        path = self.root / "classnames.txt"
        if not os.path.lexists(path):
            found, numbers = np.unique(labels, return_inverse=True)
            return [str(label) for label in found.tolist()], numbers.tolist()
        try:
            names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
            if len(set(names)) < len(names):
                raise ValueError("a name is given twice")
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read ({error}); it gives a class name in each line.") from error
        if (largest := max(labels)) >= len(names):
            raise DataError(f"{where} has the label {largest}, {path} names classes 0 to {len(names) - 1}.")
        return names, labels


def expand_braces(pattern: str) -> list[str]:
    """``a{00..11}b`` and ``a{x,y}b`` written out, as a shell does. ``DataError`` for more than 100,000."""
    parts = [_choices(part) for part in re.split(r"(\{[^{}]*\})", pattern)]
    if np.prod([float(len(part)) for part in parts]) > _MOST_SHARDS:
        raise DataError(f"{pattern} stands for more than {_MOST_SHARDS:,} shards.")
    return ["".join(choice) for choice in itertools.product(*parts)]


_MOST_SHARDS = 100_000
_MOST_LABEL = 64  # bytes of a .cls file
_IMAGES = tuple(extension[1:] for extension in EXTENSIONS)
_MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)  # key and extension: up to the first dot, and after


def _choices(part: str) -> Sequence[str]:
    if not part.startswith("{"):
        return [part]
    if not (span := re.fullmatch(r"\{(\d{1,9})\.\.(\d{1,9})\}", part)):
        return part[1:-1].split(",")
    first, last = span.groups()
    numbers = range(int(first), int(last) + 1)
    if not 0 < len(numbers) <= _MOST_SHARDS:
        raise DataError(f"{part} stands for {len(numbers):,} shards; 1 to {_MOST_SHARDS:,} will do.")
    return [f"{number:0{len(first)}}" for number in numbers]


def _listed(info: Path, name: str) -> tuple[list[Path], Sequence[int | None]]:
    """The shards of a split by timm's ``_info.json``."""
    try:
        splits = read_json(info)["splits"]
        if name not in splits:
            raise ValueError(f"it has no split {name!r}, but {', '.join(map(str, splits))[:200]}")
        files: Any = splits[name]["filenames"]
        counts: Any = splits[name]["shard_lengths"]
        if not (isinstance(files, list) and isinstance(counts, list) and 0 < len(files) == len(counts)):
            raise ValueError("filenames and shard_lengths are no lists of one length")
        for file in files:
            path = PurePosixPath(file)
            if path.is_absolute() or ".." in path.parts or "\0" in file:
                raise ValueError(f"{file!r:.200} lies outside of its folder")
        return [info.parent / file for file in files], counts
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{info} cannot be used ({type(error).__name__}: {error}); set data.train, data.valid and data.test to its "
            "splits, or to patterns such as train-*.tar."
        ) from error


def _samples(shard: Path) -> Iterator[tuple[Member, int]]:
    """Image and label of every sample: of neighbours that share a key."""
    files = ((_MEMBER.fullmatch(member.name), member) for member in members(shard))
    named = ((match[1], match[2].lower(), member) for match, member in files if match)
    for key, group in itertools.groupby(named, key=lambda entry: entry[0]):
        sample = {extension: member for _, extension, member in group}
        image = next((sample[extension] for extension in _IMAGES if extension in sample), None)
        if image is None or "cls" not in sample:
            wanted = f"image ({', '.join(_IMAGES)})" if image is None else "label (cls)"
            raise DataError(
                f"{shard}: the sample {key!r} has no {wanted}, only {', '.join(sample)[:200]}; "
                "pack both, one after the other, under one name."
            )
        yield image, _label(sample["cls"])


def _label(member: Member) -> int:
    try:
        text = member.read(_MOST_LABEL).decode("ascii").strip()
        if not re.fullmatch(r"\d{1,9}", text):
            raise ValueError(f"{text!r} is no class's number")
        return int(text)
    except (OSError, ValueError) as error:
        raise DataError(f"{member.file}: {member.name} is no label ({error}); pack the shard again.") from error

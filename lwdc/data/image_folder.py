"""ImageFolder: image files in one folder a class, as ImageNet's, listed by timm."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from timm.data.readers.reader_factory import create_reader
from torch import Tensor

from lwdc.data.images import Images, ImageSource
from lwdc.errors import DataError
from lwdc.files import check_regular, printable


class ImageFolder(Images):
    """``root`` with a folder a split and in it a folder a class."""

    def source(self, name: str) -> "ImageFiles":
        return _scan(self.root / name)


@dataclasses.dataclass(frozen=True)
class ImageFiles(ImageSource):
    """Files of their own."""

    where: str
    class_names: Sequence[str]
    labels: Tensor
    files: Sequence[str]

    def open(self, place: int) -> BinaryIO:
        check_regular(Path(self.files[place]))
        return Path(self.files[place]).open("rb")

    def name(self, place: int) -> str:
        return printable(self.files[place])


def _scan(folder: Path) -> ImageFiles:
    """Class folders in natural order, as timm numbers them, and the files with their class's number."""
    if not folder.is_dir():
        raise DataError(
            f"no folder {folder}; set data.root to the folder that holds the splits, "
            "or data.train, data.valid and data.test to the names used there."
        )
    _check_links(folder)
    try:
        reader = create_reader("", root=str(folder))
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"{folder} cannot be used: {error}; one folder a class, with images in it, is needed."
        ) from error
    if "" in reader.class_to_idx:
        raise DataError(f"{folder} has images outside class folders; move them into a folder of their class.")
    files, labels = zip(*reader.samples, strict=True)
    return ImageFiles(str(folder), list(reader.class_to_idx), torch.tensor(labels), files)


def _check_links(folder: Path) -> None:
    """Raises ``DataError`` for folders linked into themselves, which would be walked for ever."""
    seen: set[tuple[int, int]] = set()
    for inside, _, _ in os.walk(folder, followlinks=True):
        found = os.stat(inside)
        if (found.st_dev, found.st_ino) in seen:
            raise DataError(f"{inside} is a link to a folder that {folder} holds anyway; remove the link.")
        seen.add((found.st_dev, found.st_ino))

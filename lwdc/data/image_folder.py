"""ImageFolder: image files in one folder a class, as ImageNet's."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import BinaryIO

import torch
from torch import Tensor

from lwdc.data.class_folders import File, by_class, is_hidden
from lwdc.data.images import Images, ImageSource
from lwdc.errors import DataError
from lwdc.files import check_regular, printable


class ImageFolder(Images):
    """``root`` with a folder a split and in it a folder a class.

    As with torchvision, the class is the first folder below the split, however deep in it an image lies. Hidden files
    and folders are passed over, and a folder without any file is no class. Images are in the natural order of their
    paths.
    """

    def source(self, name: str) -> "ImageFiles":
        return _scan(self.root / name)


@dataclasses.dataclass(frozen=True)
class ImageFiles(ImageSource):
    """Files of their own."""

    where: str
    class_names: Sequence[str]
    labels: Tensor
    files: Sequence[str]
    note: str | None = None

    def open(self, place: int) -> BinaryIO:
        check_regular(Path(self.files[place]))
        return Path(self.files[place]).open("rb")

    def name(self, place: int) -> str:
        return printable(self.files[place])


def _scan(folder: Path) -> ImageFiles:
    if not folder.is_dir():
        raise DataError(
            f"no folder {folder}; set data.root to the folder that holds the splits, "
            "or data.train, data.valid and data.test to the names used there."
        )
    try:
        found = by_class(_files(folder), str(folder))
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error}; see to it that all of its folders can.") from error
    return ImageFiles(str(folder), found.class_names, torch.tensor(found.labels), found.images, found.note)


def _files(folder: Path) -> Iterator[File]:
    """Raises ``DataError`` for folders linked into themselves, which would be walked for ever."""
    seen: set[tuple[int, int]] = set()
    for inside, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        status = os.stat(inside)
        if (status.st_dev, status.st_ino) in seen:
            raise DataError(f"{inside} is a link to a folder that {folder} holds anyway; remove the link.")
        seen.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not is_hidden(name)]
        below = PurePath(inside).relative_to(folder)
        for name in names:
            if not is_hidden(name):
                yield File(below.parts[0] if below.parts else "", (below / name).as_posix(), os.path.join(inside, name))


def _raise(error: OSError) -> None:
    raise error

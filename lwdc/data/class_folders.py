"""ClassFolders: which files of a tree are images, and of which class, in folders and in tar files alike."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from lwdc.data.decoding import FORMATS
from lwdc.errors import DataError
from lwdc.files import printable

EXTENSIONS = tuple(extension for extensions in FORMATS.values() for extension in extensions)


class File(NamedTuple):
    """A file of a tree, hidden ones left out."""

    class_name: str  # "" outside of class folders
    path: str  # below the split, parted by "/"
    content: Any  # what it takes to read it


class Classed(NamedTuple):
    """Images in the natural order of their paths."""

    images: list[Any]  # their contents
    labels: list[int]
    class_names: list[str]
    note: str | None  # on files that were left out


def by_class(files: Iterable[File], where: str) -> Classed:
    """Images, told by the extensions of their names, and their classes in natural order.

    Raises ``DataError`` without any, for those outside of class folders, and for a class that has other files only.
    """
    images: list[File] = []
    others: list[File] = []
    for file in files:
        (images if file.path.lower().endswith(EXTENSIONS) else others).append(file)
    if not images:
        raise DataError(f"{where} has no images ({', '.join(EXTENSIONS)}) in class folders.")
    classes = sorted({image.class_name for image in images}, key=natural)
    number = {name: index for index, name in enumerate(classes)}
    if "" in number:
        raise DataError(f"{where} has images outside class folders; move them into a folder of their class.")
    others = sorted((file for file in others if file.class_name), key=lambda file: natural(file.path))
    for file in others:
        if file.class_name not in number:
            raise DataError(
                f"{where} has the class {file.class_name!r} without an image, but with such files as "
                f"{printable(file.path)}; images are called {', '.join(EXTENSIONS)}: convert them, or move them out of "
                "there."
            )
    note = None
    if others:
        named = ", ".join(printable(file.path) for file in others[:3]) + (", ..." if len(others) > 3 else "")
        note = f"{where}: {len(others)} file(s) that are not called as images are left out: {named}"
    images.sort(key=lambda image: natural(image.path))
    labels = [number[image.class_name] for image in images]
    return Classed([image.content for image in images], labels, [printable(name) for name in classes], note)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is one that systems and editors leave behind, such as ``._a.jpg``."""
    return name.startswith(".") or name == "__MACOSX"


def natural(text: str) -> tuple[list[str | int], str]:
    """What sorts texts as people do, 9 before 10, and capitals among the others; no two texts are equal."""
    parts = re.split(r"(\d+)", text.lower())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], text

"""ImageTar: image files in tar files, in one folder or tar file a class, as timm reads them."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from lwdc.data.class_folders import File, by_class, is_hidden, natural
from lwdc.data.images import Images
from lwdc.data.tar_members import Member, TarImages, members
from lwdc.errors import DataError


class ImageTar(Images):
    """``root`` with a tar file a split, ``train.tar``, or a folder ``train/`` of tar files.

    The class is the first folder that an image lies in within its tar file, or else that: one tar of class folders,
    a folder with a tar a class and a tar of tars, as ImageNet comes, all do; so does a ``train.tar`` of ``train/`` with
    the class folders. Hidden files and folders are passed over. Images are in the natural order of their paths, however
    they were packed, so that a tar gives the batches, bit for bit, of the folder that it was made of.

    Every header is read once, in ``prepare``, by every process of a run; images are then read where they lie, any of
    them at any time. So the order is as exact, resumable and independent of the workers and devices as a folder's.
    """

    def source(self, name: str) -> TarImages:
        path = self.root / name
        tars = [tar for tar in path.glob("*.tar") if not is_hidden(tar.name)] if path.is_dir() else []
        tars.sort(key=lambda tar: natural(tar.name))
        if not path.is_dir():
            path = path if name.endswith(".tar") else path.with_name(f"{path.name}.tar")
            if not path.exists():
                raise DataError(
                    f"neither {path} nor a folder {self.root / name} of tar files is there; set data.root to the "
                    "folder that holds them, or data.train, data.valid and data.test to their names."
                )
            tars = [path]
        files = [file for tar in tars for file in _files(tar, PurePosixPath("" if tar == path else tar.stem))]
        if {file.class_name for file in files} - {""} == {
            path.stem
        }:  # the folder of the split was packed, with its name
            files = [File(_class_of(file.path.partition("/")[2]), file.path, file.content) for file in files]
        found = by_class(files, str(path))
        return TarImages.of(found.images, found.labels, found.class_names, str(path), found.note)


def _files(tar: Path, below: PurePosixPath) -> Iterator[File]:
    """Files of a tar file, whose own place is ``below`` the split, and of tar files in it."""
    for member in _seen(members(tar)):
        if not member.name.lower().endswith(".tar"):
            yield _file(member, below)
            continue
        for inner in _seen(members(tar, member)):
            yield _file(inner, below / PurePosixPath(member.name).stem)


def _seen(found: Iterator[Member]) -> Iterator[Member]:
    return (member for member in found if not any(map(is_hidden, PurePosixPath(member.name).parts)))


def _file(member: Member, below: PurePosixPath) -> File:
    return File(_class_of(member.name) or below.name, str(below / member.name), member)


def _class_of(path: str) -> str:
    """The first of several parts."""
    parts = PurePosixPath(path).parts
    return parts[0] if len(parts) > 1 else ""

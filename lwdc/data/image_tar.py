"""ImageTar: image files in tar files, in one folder or tar file a class, as timm reads them."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from lwdc.data.class_folders import EXTENSIONS, File, by_class, is_hidden, natural
from lwdc.data.images import Images
from lwdc.data.tar_members import Member, TarImages, members
from lwdc.errors import DataError


class ImageTar(Images):
    """``root`` with a tar file a split, ``train.tar``, or a folder ``train/`` of tar files.

    The class is the first folder that an image lies in within its tar file, or else that: one tar of class folders,
    a folder with a tar a class and a tar of tars, as ImageNet comes, all do; so do class folders within folders that
    hold all images, like ``train/``. Hidden files and folders are passed over. Images are in the natural order of
    their paths, however they were packed, so that a tar gives the batches, bit for bit, of the folder that it was made
    of.

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
        placed = [found for tar in tars for found in _placed(tar, PurePosixPath("" if tar == path else tar.stem))]
        depth = _wrapping([member.name for _, member in placed if member.name.lower().endswith(EXTENSIONS)])
        files = [File(_class_of(below, member, depth), str(below / member.name), member) for below, member in placed]
        found = by_class(files, str(path))
        return TarImages.of(found.images, found.labels, found.class_names, str(path), found.note)


def _placed(tar: Path, below: PurePosixPath) -> Iterator[tuple[PurePosixPath, Member]]:
    """Files of a tar file, whose own place is ``below`` the split, and of tar files in it, each with that place."""
    for member in _seen(members(tar)):
        if not member.name.lower().endswith(".tar"):
            yield below, member
            continue
        for inner in _seen(members(tar, member)):
            yield below / PurePosixPath(member.name).stem, inner


def _seen(found: Iterator[Member]) -> Iterator[Member]:
    return (member for member in found if not any(map(is_hidden, PurePosixPath(member.name).parts)))


def _wrapping(images: Sequence[str]) -> int:
    """How many folders all images lie in that have class folders below: those of the split, packed with their names."""
    depth = 0
    while images:
        parts = (PurePosixPath(name).parts for name in images)
        firsts = {inside[depth] if len(inside) > depth + 2 else "" for inside in parts}
        if len(firsts) > 1 or "" in firsts:
            break
        depth += 1
    return depth


def _class_of(below: PurePosixPath, member: Member, depth: int) -> str:
    """The first folder below those that wrap all images, or else the tar file."""
    inside = PurePosixPath(member.name).parts[depth:]
    if len(inside) > 1:
        return inside[0]
    return "" if depth else below.name

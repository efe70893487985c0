"""ImageTar: image files in tar files, in one folder or tar file a class, as timm reads them."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from timm.data.readers.img_extensions import get_img_extensions
from timm.utils.misc import natural_key

from lwdc.data.images import Images
from lwdc.data.tar_members import Member, TarImages, members
from lwdc.errors import DataError


class ImageTar(Images):
    """``root`` with a tar file a split, ``train.tar``, or a folder ``train/`` of tar files.

    As with timm, the class is the folder that an image lies in, or else the tar file: one tar of class folders, a
    folder with a tar a class and a tar of tars, as ImageNet comes, all do. Images are in the natural order of their
    paths, however they were packed, so that a tar gives the batches, bit for bit, of the folder that it was made of.

    Every header is read once, in ``prepare``, by every process of a run; images are then read where they lie, any of
    them at any time. So the order is as exact, resumable and independent of the workers and devices as a folder's.
    """

    def source(self, name: str) -> TarImages:
        path = self.root / name
        tars = sorted(path.glob("*.tar"), key=lambda tar: natural_key(tar.name)) if path.is_dir() else []
        if not path.is_dir():
            path = path if name.endswith(".tar") else path.with_name(f"{path.name}.tar")
            if not path.exists():
                raise DataError(
                    f"neither {path} nor a folder {self.root / name} of tar files is there; set data.root to the "
                    "folder that holds them, or data.train, data.valid and data.test to their names."
                )
            tars = [path]
        found = [image for tar in tars for image in _images(tar, "" if tar == path else tar.stem)]
        if not found:
            raise DataError(f"{path} has no images ({', '.join(sorted(get_img_extensions()))}) in tar files.")
        found.sort(key=lambda image: natural_key(image[0]))
        classes = sorted({_class_of(inside) for inside, _ in found}, key=natural_key)
        if "" in classes:
            raise DataError(f"{path} has images outside class folders; pack them in a folder or tar of their class.")
        number = {name: index for index, name in enumerate(classes)}
        labels = [number[_class_of(inside)] for inside, _ in found]
        return TarImages.of([member for _, member in found], labels, classes, str(path))


def _images(tar: Path, inside: str) -> Iterator[tuple[str, Member]]:
    """Images of a tar file and of those in it, each with its path below the split: ``class/file``."""
    for member in members(tar):
        if not member.name.lower().endswith(".tar"):
            yield from _image(member, inside)
            continue
        for inner in members(tar, member):
            yield from _image(inner, f"{inside}/{PurePosixPath(member.name).stem}")


def _image(member: Member, inside: str) -> Iterator[tuple[str, Member]]:
    if PurePosixPath(member.name).suffix.lower() in get_img_extensions(as_set=True):
        yield str(PurePosixPath(inside, member.name)), member


def _class_of(inside: str) -> str:
    return PurePosixPath(inside).parent.name

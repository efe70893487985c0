"""TarMembers: where in tar files the images lie, found by one pass over their headers, so that each is read by itself.

Ours rather than timm's tar reader, which takes a tar that is cut off or damaged in the middle for a shorter one, reads
every byte of it for its list, and reads through one handle that forked workers would move under one another.
"""

import dataclasses
import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lwdc.data.images import ImageSource
from lwdc.errors import DataError
from lwdc.files import check_regular, printable, read_span


class Member(NamedTuple):
    """A regular file in a tar file, or in one within that."""

    file: Path  # on disk
    name: str
    start: int  # of its content, in bytes from the beginning of ``file``
    size: int  # bytes

    def read(self, most: int) -> bytes:
        """Its content. Raises ``OSError``, and ``ValueError`` for more than ``most`` bytes."""
        return read_span(self.file, self.start, self.size, most)


def members(path: Path, within: Member | None = None) -> Iterator[Member]:
    """Every regular file of the uncompressed tar file ``path``, or of the one ``within`` it, in their order.

    Nothing is unpacked, contents are not read. Raises ``DataError``, after those before, at damage, where the file is
    cut off, and at names that lead out of it.
    """
    where = f"{path}" if within is None else f"{path}: {within.name}"
    try:
        size = check_regular(path)
        with Path(path).open("rb") as file:
            span = range(size) if within is None else range(within.start, within.start + within.size)
            for info in _headers(_Span(file, span)):
                yield Member(Path(path), info.name, span.start + info.offset_data, info.size)
    except DataError:
        raise
    # tarfile raises whatever a damaged file makes it stumble over.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise DataError(
            f"{where} cannot be read as a tar file ({reason}); whole, uncompressed ones are: fetch or pack it again."
        ) from error


@dataclasses.dataclass(frozen=True)
class TarImages(ImageSource):
    """Members of tar files. Arrays, of some 100 bytes an image in all: workers share them."""

    where: str
    class_names: Sequence[str]
    labels: Tensor
    files: Sequence[Path]
    file_of: np.ndarray  # int32 (N,), in ``files``
    starts: np.ndarray  # int64 (N,)
    sizes: np.ndarray  # int64 (N,)
    names: np.ndarray  # bytes (N,), utf-8
    note: str | None = None

    @classmethod
    def of(
        cls,
        images: Sequence[Member],
        labels: Sequence[int],
        class_names: Sequence[str],
        where: str,
        note: str | None = None,
    ) -> "TarImages":
        files: dict[Path, int] = {}
        rows = [(files.setdefault(m.file, len(files)), m.start, m.size) for m in images]
        table = np.array(rows, np.int64).reshape(-1, 3)
        names = np.array([m.name.encode("utf-8", "surrogateescape") for m in images])
        return cls(
            where,
            class_names,
            torch.tensor(labels, dtype=torch.int64),
            tuple(files),
            table[:, 0].astype(np.int32),
            table[:, 1].copy(),
            table[:, 2].copy(),
            names,
            note,
        )

    def open(self, place: int) -> BinaryIO:
        return io.BytesIO(read_span(self._file(place), int(self.starts[place]), int(self.sizes[place])))

    def name(self, place: int) -> str:
        return f"{printable(self._file(place))}: {self.names[place].decode('utf-8', 'backslashreplace')}"

    def _file(self, place: int) -> Path:
        return self.files[self.file_of[place]]


_MOST_HEADER = 8 << 10  # bytes of one header, long names included: more than any file system's
_MOST_NAME = 512  # characters


class _Span:
    """A part of a file, as tarfile reads it: in small pieces, never to its end."""

    def __init__(self, file: BinaryIO, span: range) -> None:
        self.file = file
        self.span = span
        file.seek(span.start)

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= _MOST_HEADER:
            raise ValueError(f"a header of {count:,} bytes")
        return self.file.read(max(0, min(count, self.span.stop - self.file.tell())))

    def tell(self) -> int:
        return self.file.tell() - self.span.start

    def seek(self, place: int) -> int:
        return self.file.seek(self.span.start + place)


def _headers(span: _Span) -> Iterator[tarfile.TarInfo]:
    """The headers of regular files. Raises ``ValueError`` for what tarfile lets pass, and whatever it does not."""
    with tarfile.open(fileobj=span, mode="r:") as archive:  # type: ignore[call-overload]
        end = 0
        while (info := archive.next()) is not None:
            archive.members.clear()  # or it would keep all
            if info.size < 0 or info.offset < end:
                raise ValueError(f"the header at byte {end:,} leads back")
            end = archive.offset
            path = PurePosixPath(info.name)
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"the member {info.name[:_MOST_NAME]!r} leads out of it")
            if len(info.name) > _MOST_NAME:
                raise ValueError(f"a name of {len(info.name):,} characters; {_MOST_NAME} at most are read")
            if info.issym() or info.islnk() or info.issparse():
                raise ValueError(f"the member {info.name!r} is a link or sparse; only plain files can be read in place")
            if info.isreg():
                yield info
        span.seek(archive.offset)
        # tarfile ends in silence at a header that it cannot read. A sound archive ends with zeros.
        if span.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ValueError(f"it is cut off or damaged at byte {archive.offset:,}")

"""Writing artefacts: whole or not at all, and what the file system refuses said in one line."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lwdc.errors import ExportError
from lwdc.files import replacing


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """``lwdc.files.replacing``, but what the file system refuses is an ``ExportError``."""
    with _refusals(path), replacing(path) as temporary:
        yield temporary


@contextlib.contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Yield an empty folder inside ``folder``, on the same disk; it is removed with what is left in it."""
    with _refusals(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".export.") as stage:
            yield Path(stage)


@contextlib.contextmanager
def _refusals(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ExportError(
            f"{path} cannot be written ({error.strerror or error}); choose a folder on a disk with room, "
            "in which you may write."
        ) from error

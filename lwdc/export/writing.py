"""Writing an artefact: whole or not at all, and a refusal in one line."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from lwdc.errors import ExportError
from lwdc.files import replacing


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """``lwdc.files.replacing``, but what the file system refuses is an ``ExportError``."""
    try:
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise ExportError(
            f"{path} cannot be written ({error.strerror or error}); choose a folder on a disk with room, "
            "in which you may write."
        ) from error

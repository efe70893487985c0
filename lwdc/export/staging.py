"""Staging: an export is made and compared in a folder of its own before its files get their names."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lwdc.files import STAGE, refusals


@contextlib.contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Yield an empty folder inside ``folder``, on the same disk; it is removed with what is left in it.

    Raises ``WriteError`` for what the file system refuses.
    """
    with refusals(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=STAGE) as stage:
            yield Path(stage)

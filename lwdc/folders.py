"""Folders: where a run lies, by what names, and whether one can begin there."""

import shlex
import tempfile
from pathlib import Path

from lwdc.errors import CheckpointError, LwdcError

CHECKPOINT = "checkpoint.pt"
RECORDS = "records.jsonl"
_LEAST = 1 << 16  # bytes without which nothing begins


def typed(key: str, path: Path | str) -> str:
    """``key=path`` as a shell takes it."""
    return f"{key}={shlex.quote(str(path))}"


def at_home(path: str) -> Path:
    """The path, whose leading ``~`` is home; that of a user whom nobody knows stays."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def check_folder(folder: Path, *, resume: bool) -> None:
    """Raise an ``LwdcError`` if a run cannot be written to ``folder``, or, unless ``resume``, one lies there."""
    if not resume and (folder / CHECKPOINT).exists():
        raise CheckpointError(
            f"{folder} holds a run already. Go on with it by {typed('resume', folder)}, or choose another folder."
        )
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest) as file:
            file.write(bytes(_LEAST))
    except OSError as error:
        raise LwdcError(
            f"the output folder {folder} cannot be written: {error.strerror}. Choose another one."
        ) from error

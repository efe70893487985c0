"""Files that are whole or absent: written under a temporary name, synced, then renamed."""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lwdc.errors import WriteError

STAGE = ".export."  # what the names of folders begin with in which files are made


@contextlib.contextmanager
def refusals(path: Path) -> Iterator[None]:
    """What the file system refuses, as a ``WriteError`` that names ``path``."""
    try:
        yield
    except OSError as error:
        raise WriteError(
            f"{path} cannot be written ({error.strerror or error}): make room on its disk, or choose a folder in "
            "which you may write."
        ) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; what is written there becomes ``path`` if nothing is raised.

    Raises ``WriteError`` for an ``OSError``. PyTorch and safetensors have errors of their own for a full disk, or end
    the process: let them write to memory, and the bytes here.
    """
    path = Path(path)
    with refusals(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_TEMPORARY)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


_TEMPORARY = ".tmp"


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed process was writing in ``folder``, where no other is at work now."""
    for path in Path(folder).glob(f".*{_TEMPORARY}"):
        path.unlink()
    for path in Path(folder).glob(f"{STAGE}*"):
        shutil.rmtree(path)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Between processes, one at a time for each ``path``: for files that are read, changed and written again.

    A hidden file beside ``path`` holds the lock and stays; the end of a process, however it comes, releases it. Unless
    it is to ``wait``, a lock that another process has is a ``BlockingIOError``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f".{path.name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Write json-ready ``data`` to ``path``, whole or not at all."""
    write_text(path, json.dumps(data, indent=2) + "\n")

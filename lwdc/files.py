"""Files: written whole or not at all, and read as far as a file that a stranger sent may go."""

import contextlib
import fcntl
import json
import math
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lwdc.errors import WriteError

MOST = 64 << 20  # bytes of a file of text that lwdc reads
MOST_JSON = 16 << 20  # bytes of json at once: several times what the largest networks give; parsed within seconds
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

    Who may read it is as ``open`` has it: whom the umask leaves, and whoever might read the file that is replaced.

    Raises ``WriteError`` for an ``OSError``. PyTorch and safetensors have errors of their own for a full disk, or end
    the process: let them write to memory, and the bytes here.
    """
    path = Path(path)
    with refusals(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not by ``tempfile``, whose files are their owner's alone: what the umask leaves, a file shows once it is made.
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_TEMPORARY}")
        temporary.touch(exist_ok=False)
        try:
            with contextlib.suppress(FileNotFoundError):
                temporary.chmod(path.stat().st_mode & 0o777 | 0o600)  # what is private is so while it is written, too
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            with contextlib.suppress(FileNotFoundError):
                shutil.copymode(path, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


_TEMPORARY = ".tmp"


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed process was writing in ``folder``, where no other is at work now."""
    for path in Path(folder).glob(f".*.????????{_TEMPORARY}"):  # as ``replacing`` names them
        if path.is_file():
            path.unlink()
    for path in Path(folder).glob(f"{STAGE}????????"):
        if path.is_dir():
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
    """Write ``text`` to ``path``, whole or not at all; halves of characters are escaped."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, data: Any) -> None:
    """Write json-ready ``data`` to ``path``, whole or not at all."""
    write_text(path, json.dumps(data, indent=2) + "\n")


def check_regular(path: Path) -> int:
    """The bytes of the file at ``path``. Raises ``OSError`` unless it is a regular one: a pipe would never end."""
    found = Path(path).stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{path} is no file, but a {_KINDS.get(stat.S_IFMT(found.st_mode), 'device')}")
    return found.st_size


_KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}


def printable(path: Path | str) -> str:
    """``path`` as text that any file and terminal takes: of its name the bytes that are no utf-8 as ``\\xff``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def read_bytes(path: Path, most: int = MOST) -> bytes:
    """The content of a regular file. Raises ``OSError``, and ``ValueError`` for one of more than ``most`` bytes."""
    if (size := check_regular(path)) > most:
        raise ValueError(f"it has {size:,} bytes, and {most:,} at most are read")
    with Path(path).open("rb") as file:
        return file.read(most)


def read_span(path: Path, start: int, count: int, most: int = MOST) -> bytes:
    """``count`` bytes of a regular file from byte ``start`` on. Raises ``OSError``, and ``ValueError`` if the file ends
    before, or for more than ``most``."""
    if count > most:
        raise ValueError(f"it has {count:,} bytes, and {most:,} at most are read")
    if check_regular(path) < start + count:
        raise ValueError(f"{path} ends before its byte {start + count:,}")
    with Path(path).open("rb", buffering=0) as file:
        file.seek(start)
        found = bytearray()
        while len(found) < count and (more := file.read(count - len(found))):
            found += more
    return bytes(found)


def read_text(path: Path, most: int = MOST, *, errors: str = "strict") -> str:
    """The same as text, without the mark that editors and spreadsheets begin theirs with; what is not in utf-8 is a
    ``ValueError``, unless ``errors`` says otherwise."""
    return read_bytes(path, most).decode("utf-8-sig", errors)


def read_json(path: Path, most: int = MOST_JSON, *, finite: bool = True) -> Any:
    """What a file of json holds. Raises ``OSError``, and ``ValueError`` as ``parse_json`` does."""
    return parse_json(read_bytes(path, most), finite=finite)


def parse_json(text: str | bytes, *, finite: bool = True) -> Any:
    """What ``text`` holds, if two readers cannot take it for different things.

    Raises ``ValueError`` for what is no json or too long, for a key given twice, whole numbers beyond 64 bits, nesting
    that is too deep, and, if ``finite``, for numbers that are not.
    """

    def number(given: str) -> float:
        if finite and not math.isfinite(float(given)):
            raise ValueError(f"{given} is no finite number")
        return float(given)

    if len(text) > MOST_JSON:
        raise ValueError(f"it has {len(text):,} characters, and {MOST_JSON:,} at most are read")
    try:
        return json.loads(
            text, object_pairs_hook=_once, parse_int=_whole, parse_float=number, parse_constant=number
        )  # fmt: skip
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:80]!r} is given twice")
    return found


def _whole(given: str) -> int:
    if len(given) > 19 or abs(int(given)) >= 2**63:
        raise ValueError(f"{given[:30]} is a number beyond 64 bits")
    return int(given)

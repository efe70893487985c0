"""Records in a file, one json line each: what a resumed run and the report read back."""

import dataclasses
import json
import math
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lwdc import records
from lwdc.errors import CheckpointError
from lwdc.files import parse_json, read_bytes, refusals, replacing
from lwdc.records import Record

_MOST = 256 << 20  # bytes of a file; long searches of large networks write tens of millions
_KINDS: dict[str, type] = {kind.__name__: kind for kind in typing.get_args(Record)}


class JsonlSink:
    """Appends to ``path``; every line is on the disk before ``write`` returns.

    ``keep`` cuts an existing file back to its first ``keep`` lines, so that a run resumed from a checkpoint
    leaves neither gaps nor repeats; None keeps every whole line. A half-written last line is always dropped.

    Raises:
        CheckpointError: the file has fewer than ``keep`` whole lines.
        WriteError: the disk is full; also from ``write``.
    """

    def __init__(self, path: Path, *, keep: int | None = None) -> None:
        lines = _whole_lines(path)
        if keep is not None and keep > len(lines):
            raise CheckpointError(
                f"{path} has {len(lines)} whole lines, but the checkpoint was written after {keep}: "
                "resume in the folder that the run itself wrote."
            )
        self._count = len(lines) if keep is None else keep
        with replacing(path) as temporary:
            temporary.write_bytes(b"".join(lines[: self._count]))
        self._path, self._file = path, path.open("ab", buffering=0)

    @property
    def count(self) -> int:
        """Lines in the file now; a checkpoint remembers it as the ``keep`` of a resumed run."""
        return self._count

    def write(self, record: Record) -> None:
        rest = _line(record)
        with refusals(self._path):
            while rest:  # a disk that is nearly full takes a part of it first
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        self._count += 1

    def close(self) -> None:
        self._file.close()


def replace_last(path: Path, record: Record) -> None:
    """Put ``record`` in the place of the last one of its kind, whole or not at all; the other lines stay as they are.

    Raises:
        CheckpointError: there is none, or a line is not json.
        WriteError: the disk is full.
    """
    lines, kind = _whole_lines(path), type(record).__name__
    kinds = [data.get("record") for data in read_records(path)]
    if kind not in kinds:
        raise CheckpointError(f"{path} holds no {kind}: the run is not finished.")
    lines[len(kinds) - 1 - kinds[::-1].index(kind)] = _line(record)
    with replacing(path) as temporary:
        temporary.write_bytes(b"".join(lines))


def read_records(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a records file, as ``records.as_dict`` made them, without a half-written last one.

    Raises:
        CheckpointError: there is no such file, or a line is not json.
    """
    if not path.is_file():
        raise CheckpointError(f"no records at {path}: name the folder of a run, which holds records.jsonl.")
    return [_parse_line(path, number, line) for number, line in enumerate(_whole_lines(path), start=1)]


def parse_record(data: Mapping[str, Any]) -> Record:
    """The record that ``records.as_dict`` made ``data`` from; a figure that was not finite comes back as nan.

    Raises:
        CheckpointError: ``data`` names no kind of record, or lacks one of its fields.
    """
    kind = _KINDS.get(str(data.get("record")))
    if kind is None:
        raise CheckpointError(
            f"unknown kind of record {data.get('record')!r}; known: {', '.join(_KINDS)}. "
            "The file is not a run's records.jsonl, or is of another version of lwdc."
        )
    try:
        record: Record = _restore(kind, data)
    except (TypeError, AttributeError) as error:
        raise CheckpointError(f"a {kind.__name__} record is damaged: {error}.") from error
    return record


def _line(record: Record) -> bytes:
    line = json.dumps(_finite(records.as_dict(record)), allow_nan=False, ensure_ascii=False)
    return line.encode(errors="backslashreplace") + b"\n"  # what utf-8 lacks, as json escapes it


def _whole_lines(path: Path) -> list[bytes]:
    if not path.is_file():
        return []
    try:
        content = read_bytes(path, _MOST)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    return [line for line in content.splitlines(keepends=True) if line.endswith(b"\n")]


def _parse_line(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        data = parse_json(line)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"line {number} of {path} is not json: {error}.") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"line {number} of {path} holds no record, but {type(data).__name__}.")
    return data


def _finite(value: Any) -> Any:
    """``value`` with None for every float that json cannot hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _restore(hint: Any, value: Any) -> Any:
    """``value``, as json holds it, in the type that ``hint`` names."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _restore_fields(hint, value)
    if origin is types.UnionType:  # only `X | None` occurs
        return None if value is None else _restore(arguments[0], value)
    if origin is tuple:
        return tuple(_restore(arguments[0], item) for item in value)
    if origin is dict:
        return {key: _restore(arguments[1], item) for key, item in value.items()}
    if hint is float and value is None:
        return math.nan
    if hint in (int, float, str, bool) and type(value) not in ((int, float) if hint is float else (hint,)):
        raise TypeError(f"found {value!r:.80} instead of {hint.__name__}")
    return value


def _restore_fields(kind: type, value: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(kind)
    optional = {field.name for field in dataclasses.fields(kind) if field.default is not dataclasses.MISSING}
    missing = [name for name in hints if name not in value and name not in optional]
    if missing:
        raise CheckpointError(f"a {kind.__name__} record lacks {missing}: it is of another version of lwdc.")
    return kind(**{name: _restore(hint, value[name]) for name, hint in hints.items() if name in value})

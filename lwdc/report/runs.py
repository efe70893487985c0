"""Runs as a report reads them: from their folders, finished or not."""

import csv
import dataclasses
import io
from collections.abc import Iterable
from pathlib import Path

from lwdc.errors import CheckpointError, LwdcError
from lwdc.files import read_text
from lwdc.records import EpochRecord, Note, Result
from lwdc.tracking import parse_record, read_records

RECORDS = "records.jsonl"
SWEEP = "results.csv"


@dataclasses.dataclass(frozen=True)
class ReadRun:
    """One run's records. Without a ``result`` it is not finished; ``status`` says how it stands."""

    folder: Path
    name: str  # what tells it from the others: its settings in a sweep, else its folder
    status: str
    epochs: tuple[EpochRecord, ...]
    notes: tuple[Note, ...]
    result: Result | None


def read_runs(folders: Iterable[Path]) -> list[ReadRun]:
    """The runs in these folders, each of which holds a run or a sweep; none is left out because it is unfinished.

    Raises ``LwdcError`` for a folder that is neither, ``CheckpointError`` for a run whose records cannot be read; in a
    sweep such a run says so.
    """
    found = []
    for folder in folders:
        if (folder / RECORDS).is_file():
            found.append(_read(folder, folder.resolve().name, ""))
        elif (folder / SWEEP).is_file() or next(folder.glob(f"*/{RECORDS}"), None) is not None:
            found += _sweep(folder)
        else:
            missing = "there is none" if not folder.exists() else f"it holds neither {RECORDS} nor {SWEEP}"
            raise LwdcError(
                f"{folder} is no folder of a run or sweep: {missing}. Name one like outputs/compress/<run>."
            )
    if not found:
        raise LwdcError("there are no runs to show yet.")
    return found


def _sweep(folder: Path) -> list[ReadRun]:
    """By the rows of its table; then any folder that a killed run left without a row."""
    rows = _rows(folder / SWEEP)
    common = set.intersection(*(set(row["overrides"].split()) for row in rows)) if len(rows) > 1 else set()
    found, seen = [], set()
    for row in rows:
        own = _folder_of(row, folder)
        seen.add(own.resolve())
        differing = " ".join(override for override in row["overrides"].split() if override not in common)
        found.append(_read_of_sweep(own, differing or own.name, row["status"]))
    for own in sorted(path.parent for path in folder.rglob(RECORDS)):
        if own.resolve() not in seen:
            found.append(_read_of_sweep(own, own.name, ""))
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path), newline="")))
    except (OSError, ValueError, csv.Error) as error:
        raise LwdcError(f"{path} is no table of a sweep: {error}.") from error
    if not all(
        isinstance(row.get(column), str) and "\0" not in row[column]
        for row in rows
        for column in ("overrides", "status", "folder")
    ):
        raise LwdcError(f"{path} is no table of a sweep: it lacks one of the columns overrides, status and folder.")
    return rows


def _folder_of(row: dict[str, str], sweep: Path) -> Path:
    """The folder of a row's run, wherever the sweep has been moved to; never one outside of it."""
    parts = [part for part in Path(row["folder"]).parts if part not in ("..", "/")] or ["unnamed"]
    places = [sweep.joinpath(*parts[-depth:]) for depth in range(min(len(parts), _DEEPEST), 0, -1)]
    return next((place for place in places if place.is_dir()), places[-1])


_DEEPEST = 4  # folders that a sweep's own name for a run may have


def _read_of_sweep(folder: Path, name: str, status: str) -> ReadRun:
    try:
        return _read(folder, name, status)
    except CheckpointError as error:
        if not status.startswith("failed"):  # else it failed before it began, as its row says
            status = f"its records cannot be read: {error}"
        return ReadRun(folder, name, status, (), (), None)


def _read(folder: Path, name: str, status: str) -> ReadRun:
    records = [parse_record(line) for line in read_records(folder / RECORDS)]
    epochs = tuple(record for record in records if isinstance(record, EpochRecord))
    notes = tuple(record for record in records if isinstance(record, Note))
    result = next((record for record in reversed(records) if isinstance(record, Result)), None)
    if status.startswith("failed"):
        result = None  # what lies there is another run's, which this one was refused to go on with
    elif result is not None:
        status = "done"
    elif status == "done" and epochs and epochs[-1].epoch == epochs[-1].epochs:  # as far as it was asked to go
        status = f"done, up to {epochs[-1].phase}"
    else:
        last = f"{epochs[-1].phase}, epoch {epochs[-1].epoch} of {epochs[-1].epochs}" if epochs else "no epoch yet"
        status = f"unfinished: {last}"
    return ReadRun(folder, name, status, epochs, notes, result)

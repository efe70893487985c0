"""Runs as a report reads them: from their folders, finished or not."""

import csv
import dataclasses
from collections.abc import Iterable
from pathlib import Path

from lwdc.errors import CheckpointError, LwdcError
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

    Raises ``LwdcError`` for a folder that is neither, ``CheckpointError`` for records that cannot be read.
    """
    found = []
    for folder in folders:
        if (folder / RECORDS).is_file():
            found.append(_read(folder, folder.name, ""))
        elif (folder / SWEEP).is_file():
            found += _sweep(folder)
        else:
            missing = (
                f"it holds neither {RECORDS} (a run) nor {SWEEP} (a sweep)" if folder.is_dir() else "there is none"
            )
            raise LwdcError(
                f"{folder} is no folder of a run or sweep: {missing}. Name one like outputs/compress/<run>."
            )
    return found


def _sweep(folder: Path) -> list[ReadRun]:
    """By the rows of its table; then any folder that a killed run left without a row."""
    with (folder / SWEEP).open(newline="") as file:
        rows = list(csv.DictReader(file))
    found, seen = [], set()
    common = set.intersection(*(set(row["overrides"].split()) for row in rows)) if len(rows) > 1 else set()
    for row in rows:
        own = folder / Path(row["folder"]).name  # wherever the sweep has been moved to
        seen.add(own)
        differing = " ".join(override for override in row["overrides"].split() if override not in common)
        found.append(_read(own, differing or own.name, row["status"]))
    for own in sorted(path.parent for path in folder.glob(f"*/{RECORDS}")):
        if own not in seen:
            found.append(_read(own, own.name, ""))
    return found


def _read(folder: Path, name: str, status: str) -> ReadRun:
    try:
        records = [parse_record(line) for line in read_records(folder / RECORDS)]
    except CheckpointError:
        if not status:
            raise
        records = []  # it failed before it began, as its row in the table says
    result = next((record for record in reversed(records) if isinstance(record, Result)), None)
    epochs = tuple(record for record in records if isinstance(record, EpochRecord))
    if result is not None:
        status = "done"
    elif status in ("", "done"):
        last = f"{epochs[-1].phase}, epoch {epochs[-1].epoch} of {epochs[-1].epochs}" if epochs else "no epoch yet"
        status = f"unfinished: {last}"
    return ReadRun(folder, name, status, epochs, tuple(r for r in records if isinstance(r, Note)), result)

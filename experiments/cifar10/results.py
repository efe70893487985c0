"""The file of results: one json line for every finished run."""

import json
import os
from pathlib import Path
from typing import Any

from setting import Entry


def read_records(file: Path) -> list[dict[str, Any]]:
    """All records, in the order in which they were written; none if there is no file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def add_record(file: Path, record: dict[str, Any]) -> None:
    """Append one line, on the disk before this returns."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lines:
        lines.write(json.dumps(record) + "\n")
        lines.flush()
        os.fsync(lines.fileno())


def recorded(file: Path) -> set[Entry]:
    """The entries that have a record."""
    return {Entry.of(record) for record in read_records(file)}

"""Runs as a report reads them: from their folders, finished or not."""

import csv
import dataclasses
import io
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from lwdc.errors import CheckpointError, LwdcError
from lwdc.files import read_text
from lwdc.records import CorrelationRecord, EmbeddingRecord, EpochRecord, EvaluationRecord, Note, Record, Result
from lwdc.tracking import parse_record, read_records

RECORDS = "records.jsonl"
SWEEP = "results.csv"

_Kind = TypeVar("_Kind")


@dataclasses.dataclass(frozen=True)
class ReadRun:
    """One run's records. Without a ``result`` it is not finished; ``status`` says how it stands."""

    folder: Path
    name: str  # what tells it from the others: its settings in a sweep, else its folder
    status: str
    epochs: tuple[EpochRecord, ...]
    notes: tuple[Note, ...]
    result: Result | None
    strategy: str | None = None  # its name, where Hydra has left what was chosen
    series: str = ""  # what it shares with the runs that differ from it in their seed alone
    evaluations: tuple[EvaluationRecord, ...] = ()
    embedding: EmbeddingRecord | None = None  # the last one
    correlation: CorrelationRecord | None = None  # the last one


def read_runs(folders: Iterable[Path]) -> list[ReadRun]:
    """The runs in these folders, each of which holds a run or a sweep; none is left out because it is unfinished.

    Raises ``LwdcError`` for a folder that is neither, ``CheckpointError`` for a run whose records cannot be read; in a
    sweep such a run says so.
    """
    found = []
    folders = list(folders)
    for folder in folders:
        if (folder / RECORDS).is_file():
            name = folder.resolve().name
            found.append(_read(folder, name, "", [name]))
        elif (folder / SWEEP).is_file() or next(folder.glob(f"*/{RECORDS}"), None) is not None:
            found += _sweep(folder, [folder.resolve().name] if len(folders) > 1 else [])
        else:
            missing = "there is none" if not folder.exists() else f"it holds neither {RECORDS} nor {SWEEP}"
            raise LwdcError(
                f"{folder} is no folder of a run or sweep: {missing}. Name one like outputs/compress/<run>."
            )
    if not found:
        raise LwdcError("there are no runs to show yet.")
    return found


def _sweep(folder: Path, apart: Sequence[str]) -> list[ReadRun]:
    """By the rows of its table; then any folder that a killed run left without a row.

    ``apart`` is what tells its runs from those of other sweeps.
    """
    rows = _rows(folder / SWEEP)
    common = set.intersection(*(set(row["overrides"].split()) for row in rows)) if len(rows) > 1 else set()
    found, seen = [], set()
    for row in rows:
        own = _folder_of(row, folder)
        seen.add(own.resolve())
        differing = [override for override in row["overrides"].split() if override not in common]
        found.append(_read_of_sweep(own, " ".join(differing) or own.name, row["status"], [*differing, *apart]))
    for own in sorted(path.parent for path in folder.rglob(RECORDS)):
        if own.resolve() not in seen:
            found.append(_read_of_sweep(own, own.name, "", [own.name, *apart]))
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


def _read_of_sweep(folder: Path, name: str, status: str, differing: Sequence[str]) -> ReadRun:
    try:
        return _read(folder, name, status, differing)
    except CheckpointError as error:
        if not status.startswith("failed"):  # else it failed before it began, as its row says
            status = f"its records cannot be read: {error}"
        return ReadRun(folder, name, status, (), (), None)


def _read(folder: Path, name: str, status: str, differing: Sequence[str]) -> ReadRun:
    """``differing``: what tells the run from the others, setting by setting."""
    records = [parse_record(line) for line in read_records(folder / RECORDS)]
    result = _last(Result, records)
    embedding, correlation = _last(EmbeddingRecord, records), _last(CorrelationRecord, records)
    if fault := _fault(records):
        raise CheckpointError(
            f"{folder / RECORDS} is damaged: {fault}. Copy it again from where the run wrote it, or leave the run out."
        )
    strategy, evaluations = _strategy(folder), _all(EvaluationRecord, records)
    if status.startswith("failed"):
        result, evaluations = None, ()  # what lies there may be another run's, which this one was refused to go on with
    elif result is not None:
        status = "done"
    else:
        status = _standing(records, status)
    return ReadRun(
        folder, name, status, _all(EpochRecord, records), _all(Note, records), result, strategy,
        _series(strategy, differing), evaluations, embedding, correlation,
    )  # fmt: skip


def _standing(records: Sequence[Record], status: str) -> str:
    """How a run without a result stands, which its row, if it has one, may say is done as far as it was asked to go."""
    last = next((r for r in reversed(records) if isinstance(r, EpochRecord | EvaluationRecord)), None)
    if last is None:
        return "unfinished: no epoch yet"
    if isinstance(last, EpochRecord):
        phase, over, stands = last.phase, last.epoch == last.epochs, f"epoch {last.epoch} of {last.epochs}"
    else:
        # What follows the last one says that a strategy knew of no others.
        phase, over = "search", last.index == last.evaluations or records[-1] is not last
        stands = f"evaluation {last.index} of {last.evaluations}"
    return f"done, up to {phase}" if status == "done" and over else f"unfinished: {phase}, {stands}"


def _fault(records: Sequence[Record]) -> str | None:
    """What a page could not show; None if there is nothing."""
    searches = [epoch.search for epoch in _all(EpochRecord, records) if epoch.search is not None]
    fits = len({len(search.costs) for search in searches}) <= 1
    fits &= all(len(gate.candidates) == len(gate.probabilities) for search in searches for gate in search.gates)
    fits &= all(map(_whole, _all(EmbeddingRecord, records)))
    fits &= all(map(_compared, _all(CorrelationRecord, records)))
    if not fits:
        return "the lists of one of its records do not fit together"
    return next(filter(None, map(_fault_of, _all(Result, records))), None)


def _fault_of(result: Result) -> str | None:
    before, int8 = result.before, result.int8
    if not result.costs:
        return "its result names no cost"
    sizes: dict[str, float] = {"macs": before.macs, "params": before.params, "bytes": before.bytes}
    sizes |= {f"latency_ms at batch {batch}": ms for batch, ms in before.latency_ms.items()}
    sizes |= {f"onnx_ms at batch {batch}": ms for batch, ms in (before.onnx_ms or {}).items()}
    sizes |= {f"cost {cost.name}": cost.before for cost in result.costs}
    if (small := next((name for name, size in sizes.items() if size <= 0), None)) is not None:
        return f"before compression its {small} is {sizes[small]}, where it is more than 0"
    measured = [before.latency_ms, result.after.latency_ms, before.onnx_ms or {}, result.after.onnx_ms or {}]
    measured += [] if int8 is None else [int8.float32.latency_ms, int8.int8.latency_ms]
    for batch in itertools.chain.from_iterable(measured):
        if not re.fullmatch("[1-9][0-9]{0,8}", batch):
            return f"one of its latencies has the batch size {batch!r:.40}, where it is a number from 1 on"
    if int8 is not None and int8.float32.latency_ms.keys() != int8.int8.latency_ms.keys():
        return "the latency_ms of its float32 and int8 files have different batch sizes"
    for cost in result.costs:
        if cost.agreement is not None and (missing := [name for name in _AGREEMENT if name not in cost.agreement]):
            return f"the agreement of its cost {cost.name} lacks {', '.join(missing)}"
    return None


_AGREEMENT = ("rank", "error", "networks", "rank_repeated", "error_repeated")


def _whole(record: EmbeddingRecord) -> bool:
    """Whether there is an accuracy and a share for every point, and every point has two coordinates."""
    lengths = {len(record.points), len(record.accuracies), len(record.shares)}
    return len(lengths) == 1 and all(len(point) == 2 for point in (*record.points, *record.path))


def _compared(record: CorrelationRecord) -> bool:
    """Whether there are as many rows as evaluators, and as many accuracies in each as shares."""
    count = len(record.evaluators)
    rows = {len(record.accuracies), len(record.rank), len(record.seconds), *(len(row) for row in record.rank)}
    return rows == {count} and all(len(row) == len(record.shares) for row in record.accuracies)


def _strategy(folder: Path) -> str | None:
    """What the run chose from the group ``strategy``, by Hydra's own list of such choices."""
    try:
        text = read_text(folder / ".hydra" / "hydra.yaml", _MOST, errors="replace")
    except (OSError, ValueError):
        return None  # a run from Python, or moved without its hidden files
    found = re.search(r"^ +choices:\n(?: +\S.*\n)*? +strategy: ([\w.-]+)$", text, re.MULTILINE)
    return found[1] if found else None


_MOST = 1 << 17  # bytes; Hydra writes a few thousand


def _series(strategy: str | None, differing: Sequence[str]) -> str:
    apart = ("seed", "strategy") if strategy is not None else ("seed",)
    others = [override for override in differing if override.partition("=")[0] not in apart]
    return " ".join([*([strategy] if strategy is not None else []), *others])


def _all(kind: type[_Kind], records: Sequence[Record]) -> tuple[_Kind, ...]:
    return tuple(record for record in records if isinstance(record, kind))


def _last(kind: type[_Kind], records: Sequence[Record]) -> _Kind | None:
    return next((record for record in reversed(records) if isinstance(record, kind)), None)

"""Sweeps: one table with a row for every run."""

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lwdc.errors import CheckpointError
from lwdc.files import locked, read_text, write_text
from lwdc.folders import CHECKPOINT
from lwdc.pipeline.run import differences, state_of
from lwdc.records import COLUMNS, Result


def filled_row(
    row: Mapping[str, Any], status: str, result: Result | None = None, *, own: bool = True
) -> dict[str, Any]:  # fmt: skip
    """The row of one run, with all that is known of it; ``row`` has what it was started with.

    A run that has no result, because it failed or was not asked to go so far, gives what its phases found.
    Latencies are at the first batch size. ``own`` is False where what lies in the folder is another run's.
    """
    figures = {**row, "status": " ".join(status.split()), **(_found(Path(row["folder"])) if own else {})}
    if result is not None:
        asked = result.costs[0]
        figures |= {"cost": asked.name, "factor": asked.factor, "budget": asked.budget}
        for when, measures in (("before", result.before), ("after", result.after)):
            figures |= {
                f"macs_{when}": measures.macs,
                f"params_{when}": measures.params,
                f"bytes_{when}": measures.bytes,
                f"latency_ms_{when}": next(iter(measures.latency_ms.values()), None),
                f"onnx_ms_{when}": next(iter((measures.onnx_ms or {}).values()), None),
            }
        figures |= {
            "test_baseline": result.test.baseline,
            "test_supernet": result.test.supernet,
            "test_discretised": result.test.discretised,
            "test_finetuned": result.test.finetuned,
        }
    return figures


def add_row(table: Path, row: Mapping[str, Any]) -> None:
    """Add a row to ``results.csv``, in place of an earlier one of its folder; the file changes whole or not at all.

    Runs of several processes may do so at once.
    """
    with locked(table):
        rows = _rows(table) if table.is_file() else []
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*(old for old in rows if old["folder"] != str(row["folder"])), row])
        write_text(table, text.getvalue())


def _rows(table: Path) -> list[dict[str, Any]]:
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(table))))
    except (OSError, ValueError, csv.Error) as error:
        raise CheckpointError(f"{table} cannot be read ({error}): move it away, and a new one is begun.") from error
    return [{column: row.get(column) for column in COLUMNS} for row in rows]


def shared_baseline(sweep: Path, own: Path, config: Mapping[str, Any]) -> Path | None:
    """The folder of another run of the sweep that has trained the very baseline that ``config`` asks for, if any.

    A run that takes it ends with the same weights as if it had trained its own. Nothing waits: runs side by side
    that find none yet each train their own.
    """

    def fits(known: Mapping[str, Any]) -> bool:  # one that took a search took its baseline too, wherever that was from
        return not known.get("searched") and not differences(_trains(known), _trains(config))

    return _earlier(sweep, own, "baseline", fits)


def shared_search(sweep: Path, own: Path, config: Mapping[str, Any]) -> Path | None:
    """The same for the search of a front, which is made once whatever is read off, and for a supernet of paths."""
    wanted = _searches(config)
    phase = "paths" if "proposer" in config["strategy"] else "search"
    return _earlier(sweep, own, phase, lambda known: not differences(_searches(known), wanted, _APART))


def check_searched(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises ``CheckpointError`` if the search of the run in ``folder`` is not the one that ``config`` asks for."""
    known = state_of(folder)["config"]
    if differing := differences(_searches(known), _searches(config), ["baseline", *_APART]):
        raise CheckpointError(
            f"searched={folder} searched with another configuration: {differing}. "
            "Only cost.budget, or in searches by scores the cost and who proposes, and what follows may differ."
        )


def _searches(config: Mapping[str, Any]) -> dict[str, Any]:
    """All of a configuration that the search of a front, or a supernet trained by paths, depends on."""
    if "proposer" in config["strategy"]:
        strategy = {key: value for key, value in config["strategy"].items() if key not in _ASKING}
        return _trains(config) | {key: config.get(key) for key in ("space", "gate")} | {"strategy": strategy}
    asked = {key: value for key, value in config["cost"].items() if key != "budget"}
    strategy = {"rest_from": 1, **config["strategy"]}  # earlier versions have none
    return _trains(config) | {key: config.get(key) for key in ("space", "gate")} | {"strategy": strategy, "cost": asked}


# Of searches by scores: what comes after the training of paths.
_ASKING = ("proposer", "score", "evaluations", "batch", "jobs", "evaluator", "evaluators", "correlate")
_APART = (  # of these settings: what the search does not depend on
    "strategy.refit_images", "strategy.weights", "strategy.recalibrate_batches", "compute.accelerator",
    "compute.threads", "compute.devices", "compute.nodes", "compute.strategy", "compute.timeout_s",
    "compute.checkpointing", "cost.cache", "cost.strict", "cost.model.cache", "cost.model.strict", "data.workers",
    "data.check_all",
    "cost.stiffness", "cost.rate",  # of earlier versions
)  # fmt: skip


def _earlier(sweep: Path, own: Path, phase: str, fits: Callable[[dict[str, Any]], bool]) -> Path | None:
    """The folder of another run in which ``phase`` is done, if its configuration ``fits``."""
    for file in sorted(sweep.glob(f"*/{CHECKPOINT}")):
        if file.parent.resolve() == own.resolve():
            continue
        try:
            state = state_of(file.parent)
        except CheckpointError:  # another run's damage is not this one's
            continue
        if phase in state["done"] and fits(state["config"]):
            return file.parent
    return None


def _trains(config: Mapping[str, Any]) -> dict[str, Any]:
    """All of a configuration that a baseline depends on."""
    return {
        key: config.get(key)
        for key in ("backbone", "data", "train", "optim", "seed", "compute", "deterministic", "baseline")
    }


def _found(folder: Path) -> dict[str, Any]:
    """Figures of the phases that are done in a run's folder."""
    try:
        done = state_of(folder)["done"]
    except CheckpointError:  # none yet, or damaged: the run's status says so
        return {}
    wanted = {
        ("baseline", "valid"): "valid_baseline",
        ("search", "supernet_valid"): "valid_supernet",
        ("search", "valid"): "valid_discretised",
        ("search", "cost_before"): "cost_before",
        ("search", "cost_after"): "cost_after",
        ("search", "evaluations"): "evaluations",
        ("finetune", "valid"): "valid_finetuned",
    }
    found = {column: done[phase].get(key) for (phase, key), column in wanted.items() if phase in done}
    if "search" in done:
        seconds = sum(done[phase]["seconds"] for phase in ("paths", "search") if phase in done)
        found["search_seconds"] = round(seconds, 2)
    return found

"""Sweeps: a table with a row for every run, whatever became of it."""

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lwdc.pipeline import Settings
from lwdc.pipeline.sweep import add_row, filled_row
from lwdc.records import COLUMNS, Result

ROW = {"overrides": "cost.factor=0.1 seed=0", "seed": 0, "folder": "sweep/0"}


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_holds_the_figures_of_the_result(finished: tuple[Path, Settings, Result], tmp_path: Path) -> None:
    folder, _, result = finished
    table = tmp_path / "deep" / "results.csv"
    add_row(table, filled_row({**ROW, "folder": str(folder)}, "done", result))
    (row,) = rows(table)
    assert tuple(row) == COLUMNS
    assert row["overrides"] == ROW["overrides"] and row["status"] == "done"
    assert (row["cost"], row["factor"], row["budget"]) == ("macs", "", "0.5")
    assert int(row["macs_before"]) == result.before.macs and int(row["macs_after"]) == result.after.macs
    assert float(row["latency_ms_after"]) == result.after.latency_ms["1"]
    assert result.before.onnx_ms is not None and float(row["onnx_ms_before"]) == result.before.onnx_ms["1"]
    assert float(row["test_finetuned"]) == result.test.finetuned
    assert float(row["valid_baseline"]) == result.valid.baseline


def test_failures_stand_beside_results_in_order(finished: tuple[Path, Settings, Result], tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    add_row(table, filled_row(ROW, "interrupted"))  # tried again below
    add_row(table, filled_row(ROW, "failed: the budget,\n  '0.01' cannot be reached"))
    add_row(table, filled_row({**ROW, "seed": 1, "folder": "sweep/1"}, "done", finished[2]))
    add_row(table, filled_row({**ROW, "seed": 2, "folder": "sweep/2"}, "interrupted"))
    assert [(row["seed"], row["status"]) for row in rows(table)] == [
        ("0", "failed: the budget, '0.01' cannot be reached"),
        ("1", "done"),
        ("2", "interrupted"),
    ]
    assert rows(table)[0]["macs_after"] == ""


def test_a_run_that_ended_early_shows_what_its_phases_found(
    finished: tuple[Path, Settings, Result], tmp_path: Path
) -> None:
    """``lwdc search -m`` gives no result."""
    folder, _, result = finished
    add_row(tmp_path / "results.csv", filled_row({**ROW, "folder": str(folder)}, "done", None))
    (row,) = rows(tmp_path / "results.csv")
    assert row["test_finetuned"] == ""
    assert float(row["valid_supernet"]) == result.valid.supernet
    assert (int(row["cost_before"]), int(row["cost_after"])) == (result.before.macs, result.after.macs)


def test_a_damaged_run_gets_its_row_too(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"damaged")
    add_row(
        tmp_path / "results.csv",
        filled_row({**ROW, "folder": str(tmp_path / "run")}, "failed: the checkpoint is damaged"),
    )
    (row,) = rows(tmp_path / "results.csv")
    assert row["status"].startswith("failed") and row["valid_baseline"] == ""


def test_rows_of_runs_that_end_at_once_are_all_there(tmp_path: Path) -> None:
    """In threads as in processes: each opens the lock's file anew."""
    table = tmp_path / "results.csv"
    folders = {f"run/{n}" for n in range(40)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda folder: add_row(table, {"folder": folder, "status": "done"}), folders))
    assert {row["folder"] for row in rows(table)} == folders

"""Sweeps: one table with a row for every run."""

import csv
import io
from pathlib import Path
from typing import Any

from lwdc.files import write_text
from lwdc.records import Result

COLUMNS = (
    "overrides", "seed", "status", "cost", "factor", "budget", "macs_before", "macs_after", "params_before",
    "params_after", "bytes_before", "bytes_after", "latency_ms_before", "latency_ms_after", "test_baseline",
    "test_supernet", "test_discretised", "test_finetuned", "valid_baseline", "valid_finetuned", "folder",
)  # fmt: skip


def add_row(table: Path, row: dict[str, Any], status: str, result: Result | None = None) -> None:
    """Add one run to ``results.csv``, whole or not at all; latencies are at the first batch size."""
    figures = {**row, "status": " ".join(status.split())}
    if result is not None:
        figures |= {"cost": result.cost, "factor": result.factor, "budget": result.budget}
        for when, measures in (("before", result.before), ("after", result.after)):
            latency = next(iter(measures.latency_ms.values()), None)
            figures |= {
                f"macs_{when}": measures.macs,
                f"params_{when}": measures.params,
                f"bytes_{when}": measures.bytes,
                f"latency_ms_{when}": latency,
            }
        figures |= {
            "test_baseline": result.test.baseline,
            "test_supernet": result.test.supernet,
            "test_discretised": result.test.discretised,
            "test_finetuned": result.test.finetuned,
            "valid_baseline": result.valid.baseline,
            "valid_finetuned": result.valid.finetuned,
        }
    rows = list(csv.DictReader(io.StringIO(table.read_text()))) if table.is_file() else []
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows([*rows, figures])
    write_text(table, text.getvalue())

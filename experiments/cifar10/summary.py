"""Tables and plots from the raw records, and from nothing else."""

import json
import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contenders import CONTENDERS
from plot import Point, plot
from results import read_records
from setting import Entry

from lwdc.files import write_text

BATCHES = ("1", "64")


@dataclass(frozen=True)
class Row:
    """The runs of one contender at one point. Accuracies are in percent; other figures are means over the runs."""

    contender: str
    point: float
    test: list[float]  # by seed
    valid: float
    macs: float
    params: float
    onnx: float  # bytes
    safetensors: float
    seconds: float
    peak: float  # bytes
    ms: dict[str, float]  # by batch size, where measured
    commits: list[str]  # of lwdc, by seed
    precisions: list[str]  # of the training, by seed

    @property
    def mean(self) -> float:
        return statistics.mean(self.test)

    @property
    def spread(self) -> float | None:
        """The standard deviation over the seeds; None of one."""
        return statistics.stdev(self.test) if len(self.test) > 1 else None


def summarise(records: Path) -> str:
    """Write ``summary.md`` and the plots beside ``records``; returns the text."""
    timed = records.with_name("latency.json")
    ms = json.loads(timed.read_text())["networks"] if timed.is_file() else {}
    settings: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in read_records(records):
        compared = Entry.of(record).compared().setting.facts()
        settings[json.dumps(compared, sort_keys=True)].append(record)
    text = []
    for number, (facts, found) in enumerate(settings.items()):
        setting, rows = json.loads(facts), rows_of(found, ms)
        text += [f"## {_title(setting)}", "", *table(rows), ""]
        for axis, label, x in _AXES:
            if any(x(row) is not None for row in rows):
                file = f"{setting['network']}-{number}-{axis}.svg"
                points = [Point(row.contender, x(row), row.test) for row in rows if x(row) is not None]
                write_text(records.with_name(file), plot(f"{_title(setting)}: test accuracy, %", label, points))
                text += [f"![test accuracy against {label}]({file})", ""]
    result = "\n".join(text) or "no results yet\n"
    write_text(records.with_name("summary.md"), result)
    return result


_AXES: tuple[tuple[str, str, Callable[[Row], Any]], ...] = (
    ("macs", "MACs, millions", lambda row: row.macs / 1e6),
    ("batch1", "ms at batch 1, ONNX Runtime", lambda row: row.ms.get("1")),
    ("batch64", "ms at batch 64, ONNX Runtime", lambda row: row.ms.get("64")),
)


def rows_of(records: list[dict[str, Any]], ms: dict[str, Any]) -> list[Row]:
    """One row per contender and point, by point and then in the contenders' order."""
    order = list(CONTENDERS)
    runs: dict[tuple[float, int], list[dict[str, Any]]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record["seed"]):
        runs[record["point"], order.index(record["contender"])].append(record)
    return [_row(order[index], point, same, ms) for (point, index), same in sorted(runs.items())]


def _row(contender: str, point: float, same: list[dict[str, Any]], ms: dict[str, Any]) -> Row:
    def mean(figure: Callable[[dict[str, Any]], float]) -> float:
        return statistics.mean(figure(record) for record in same)

    timed = [ms[record["folder"]] for record in same if record["folder"] in ms]
    return Row(
        contender=contender,
        point=point,
        test=[100 * record["test_accuracy"] for record in same],
        valid=100 * mean(lambda record: record["valid_accuracy"]),
        macs=mean(lambda record: record["macs"]),
        params=mean(lambda record: record["params"]),
        onnx=mean(lambda record: record["bytes"]["onnx"]),
        safetensors=mean(lambda record: record["bytes"]["safetensors"]),
        seconds=mean(lambda record: record["seconds"]["all"]),
        peak=mean(lambda record: record["peak_bytes"]["gpu"] or record["peak_bytes"]["process"]),
        ms={b: statistics.mean(network[b]["median"] for network in timed) for b in BATCHES} if timed else {},
        commits=[record["environment"]["commit"] or "-" for record in same],
        precisions=[record["config"]["compute"]["precision"] for record in same],
    )


def table(rows: list[Row]) -> list[str]:
    """Markdown, one line a row."""
    base = next((row for row in rows if row.contender == "original"), None)
    plain = next((row for row in rows if row.contender == "trained_on"), None)
    lines = [
        "| fewer MACs | contender | test, mean | spread | against the original | seeds | validation | MACs | in "
        "all | parameters | ONNX, kB | safetensors, kB | ms, batch 1 | ms, batch 64 | s in all | of trained_on's | "
        "peak, MB | commit | precision |",
        "|" + "---|" * 19,
    ]
    for row in rows:
        spread = "-" if row.spread is None else f"{row.spread:.2f}"
        against = "-" if base is None or row is base else f"{row.mean - base.mean:+.2f}"
        ratio = "-" if base is None else f"{base.macs / row.macs:.2f}x"
        took = "-" if plain is None else f"{row.seconds / plain.seconds:.2f}"
        ms = [f"{row.ms[b]:.2f}" if b in row.ms else "-" for b in BATCHES]
        cells = [
            f"{row.point:g}x", row.contender, f"{row.mean:.2f}", spread, against,
            " ".join(f"{value:.2f}" for value in row.test), f"{row.valid:.2f}", f"{row.macs / 1e6:.2f}M", ratio,
            f"{row.params / 1e3:.1f}k", f"{row.onnx / 1e3:.0f}", f"{row.safetensors / 1e3:.0f}", *ms,
            f"{row.seconds:.0f}", took, f"{row.peak / 1e6:.0f}",
            " ".join(dict.fromkeys(commit[:7] for commit in row.commits)), " ".join(dict.fromkeys(row.precisions)),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _title(setting: dict[str, Any]) -> str:
    parts = [
        f"{setting['network']}, {setting['epochs']} epochs, {setting['search']} of them search where there is one",
        "distilled" if setting["distil"] else "labels only",
        *setting["changes"],
    ]
    return ", ".join(parts)

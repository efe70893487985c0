"""Tables: what a run made of the network, site by site and in total, and how far its evaluators agree."""

import math
from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from lwdc.costs.units import shown
from lwdc.records import (
    Accuracies,
    CorrelationRecord,
    CostResult,
    ExportRecord,
    Int8Result,
    Measures,
    Result,
    SiteResult,
    latencies,
)
from lwdc.text import duration, percent, points, si, significant

SLOWER_MARK = "*"
_WARN = "bold yellow"


def site_table(sites: Iterable[SiteResult]) -> Table:
    """A row per site: its operator, how decided the gate was, and its cost before and after."""
    table = _table("Sites", "site", "operator")
    for name in ("prob.", "MACs\nbefore", "\nafter", "params\nbefore", "\nafter", "ms\nbefore", "\nafter"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", style=_WARN)
    for site in sites:
        table.add_row(
            site.site,
            site.operator,
            f"{site.probability:.2f}",
            si(site.macs_before),
            si(site.macs_after),
            si(site.params_before),
            si(site.params_after),
            _milliseconds(site.ms_before),
            _milliseconds(site.ms_after),
            SLOWER_MARK if site.cheaper_but_slower else "",
            style="dim" if site.operator == "original" else "",
        )
    return table


def slower_legend(sites: Iterable[SiteResult]) -> str | None:
    """What the mark in the table of sites means; None where no site carries it."""
    marked = sum(site.cheaper_but_slower for site in sites)
    if not marked:
        return None
    return f"{SLOWER_MARK} {marked} of the operators: fewer MACs, yet slower in PyTorch on this machine"


def accuracy_table(result: Result) -> Table:
    """Top-1 accuracy of the four networks; the gap, in points, is supernet minus discretised, of the same weights."""
    table = _table("Top-1 accuracy", "split")
    for name in ("baseline", "supernet", "discretised", "fine-tuned", "discretisation gap"):
        table.add_column(name, justify="right", no_wrap=True)
    splits: tuple[tuple[str, Accuracies], ...] = (("validation", result.valid), ("test", result.test))
    for split, accuracies in splits:
        table.add_row(
            split,
            percent(accuracies.baseline),
            percent(accuracies.supernet),
            percent(accuracies.discretised),
            percent(accuracies.finetuned),
            points(result.discretisation_gap(accuracies)),
        )
    return table


def totals_table(before: Measures, after: Measures) -> Table:
    """Size and speed of the whole network; the last column is after / before."""
    table = _table("Whole network", "")
    for name in ("before", "after", "after / before"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, old, new in (
        ("MACs", before.macs, after.macs),
        ("params", before.params, after.params),
        ("bytes", before.bytes, after.bytes),
    ):
        table.add_row(name, si(old), si(new), _ratio(old, new))
    for name, slow, fast in latencies(before, after):
        table.add_row(f"ms, {name}", _milliseconds(slow), _milliseconds(fast), _ratio(slow, fast))
    return table


def export_table(exports: Iterable[ExportRecord]) -> Table:
    """A row per exported file and how its outputs compared with the network's."""
    table = _table("Exports, each run and compared with the network", "format", "file")
    for name in ("bytes", "max difference", "allowed", "same top-1"):
        table.add_column(name, justify="right", no_wrap=True)
    for export in exports:
        table.add_row(
            export.format,
            export.file,
            si(export.bytes),
            f"{export.max_difference:.1e}",
            f"{export.tolerance:.1e}",
            "yes" if export.top1_agrees else Text("no", style=_WARN),
        )
    return table


def int8_table(result: Int8Result) -> Table:
    """Both files in ONNX Runtime; the last column is int8 / float32, of accuracies the difference in points."""
    table = _table("int8, in ONNX Runtime on the CPU", "")
    for name in ("float32", "int8", ""):
        table.add_column(name, justify="right", no_wrap=True)
    for row in int8_rows(result):
        table.add_row(*row)
    return table


def int8_rows(result: Int8Result) -> list[list[str]]:
    """What is measured, in float32, in int8, and how they compare."""
    before, after = result.float32, result.int8
    rows = [["bytes", si(before.bytes), si(after.bytes), _ratio(before.bytes, after.bytes)]]
    for split, old, new in (("validation", before.valid, after.valid), ("test", before.test, after.test)):
        rows.append([f"accuracy, {split}", percent(old), percent(new), points(new - old)])
    for batch in sorted(before.latency_ms, key=int):
        slow, fast = before.latency_ms[batch], after.latency_ms[batch]
        rows.append([f"ms, batch {batch}", _milliseconds(slow), _milliseconds(fast), _ratio(slow, fast)])
    return rows


def correlation_table(record: CorrelationRecord) -> Table:
    """A row per evaluator: how alike it and each of the others rank the same architectures, and what it takes."""
    table = _table(f"Rank correlation over {len(record.shares)} architectures", "evaluator")
    for name in (*record.evaluators, "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row, seconds in zip(record.evaluators, record.rank, record.seconds, strict=True):
        table.add_row(name, *("-" if math.isnan(value) else f"{value:.2f}" for value in row), duration(seconds))
    return table


def headline(result: Result) -> str:
    """What was run, under which cost: one line."""
    asked = " and ".join(_pressure(cost) for cost in result.costs)
    return f"{result.name}, seed {result.seed}, searched under {asked}"


def cost_lines(result: Result) -> list[str]:
    """What became of costs that the other tables do not show: those measured, and memory and the like."""
    lines = []
    for cost in result.costs:
        if cost.name in ("macs", "params"):
            continue
        line = f"{cost.name} {shown(cost.before, cost.unit)} -> {shown(cost.after, cost.unit)}"
        if cost.measured is not None:
            line += f" predicted, {shown(cost.measured, cost.unit)} measured"
        lines.append(line + ("" if cost.bound is None else f", bound {shown(cost.bound, cost.unit)}"))
    return lines


def _pressure(cost: CostResult) -> str:
    bound = f", budget {cost.budget}" if cost.budget is not None else ""
    factor = f", factor {significant(cost.factor)}" if cost.factor is not None else ""
    return f"{cost.name}{bound}{factor}"


def closing_lines(result: Result) -> list[str]:
    """The verdict on accuracy, where it can be given, and the time that each phase took."""
    lines = cost_lines(result)
    tuned, baseline = result.test.finetuned, result.test.baseline
    if tuned is not None and baseline is not None:
        lines.append(
            f"test accuracy {points(tuned - baseline)} points against the baseline, "
            f"at {_ratio(result.before.macs, result.after.macs)} of its MACs"
        )
    if result.seconds:
        spent = ", ".join(f"{phase} {duration(seconds)}" for phase, seconds in result.seconds.items())
        lines.append(f"time: {spent}")
    return lines


def _table(title: str, *left: str) -> Table:
    """Without lines: the gap between the columns is left to the one who knows the width at hand."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="cyan", box=None, pad_edge=False)
    for name in left:
        table.add_column(name, overflow="fold")
    return table


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else significant(value, decimals=3)


def _ratio(before: float, after: float) -> str:
    return percent(after / before) if before else "-"

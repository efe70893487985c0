"""Model cards: what a finished network is, in markdown that people and model hubs read."""

import json
from collections import Counter
from pathlib import Path

from lwdc.export.package import DESCRIPTION, imports_of
from lwdc.files import write_text
from lwdc.records import CostResult, Int8Result, Measures, Result, latencies
from lwdc.text import percent, points, si, significant

FILE = "model_card.md"

_LOAD = {
    "safetensors": '{imports}import lwdc\n\nnetwork = lwdc.load(".")  # this folder; plain PyTorch, without pickle',
    "torch_export": 'import torch\n\nnetwork = torch.export.load("{file}").module()',
    "onnx": 'import onnxruntime\n\nsession = onnxruntime.InferenceSession("{file}")  # metadata: how inputs are made',
}


def write_card(result: Result, folder: Path, *, licence: str | None = None) -> None:
    """Write ``model_card.md``: data, accuracy and costs before and after, operators, files and how to load them."""
    packaged = (folder / DESCRIPTION).is_file() and any(export.format == "safetensors" for export in result.exports)
    text = card(result, licence=licence, imports=imports_of(folder) if packaged else "")
    write_text(folder / FILE, text)


def card(result: Result, *, licence: str | None = None, imports: str = "") -> str:
    """The card's text; the head is what the Hugging Face hub reads. Without ``licence`` it says that it is unknown.

    ``imports`` are lines of Python that stand before ``lwdc.load``.
    """
    network, _, data = result.name.partition(" on ")
    head = {"license": licence or "unknown", "library_name": "lwdc", "datasets": [data], "tags": ["lwdc", "compressed"]}
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---", ""]
    lines += [f"# {network} on {data}, compressed", ""]
    asked = " and ".join(_asked(cost) for cost in result.costs)
    lines += [f"Compressed with lwdc {result.environment.get('lwdc', '')} under {asked}, seed {result.seed}.", ""]
    lines += [*_figures(result), "", "## Operators", ""]
    counts = Counter(site.operator for site in result.sites)
    lines += [f"- {operator}: {count} of {len(result.sites)} sites" for operator, count in counts.most_common()]
    if result.exports:
        lines += [
            "",
            "## Files",
            "",
            "| format | file | bytes | largest difference from the network |",
            "|---|---|---|---|",
        ]
        lines += [f"| {e.format} | `{e.file}` | {e.bytes:,} | {e.max_difference:.1e} |" for e in result.exports]
        for export in result.exports:
            code = _LOAD[export.format].format(file=export.file, imports=imports)
            lines += ["", "```python", code, "```"]
    if result.int8 is not None:
        lines += _int8(result.int8)
    if result.warnings:
        lines += ["", "## Warnings", "", *(f"- {warning}" for warning in result.warnings)]
    if result.before.latency_ms:
        device, cpu, threads = (result.environment.get(name) for name in ("device", "cpu", "threads"))
        elsewhere = f"; in ONNX Runtime on: {cpu}" if cpu not in (None, device) else ""
        lines += ["", f"Milliseconds were measured on: {device}, {threads} threads{elsewhere}."]
    return "\n".join([*lines, ""])


def _asked(cost: CostResult) -> str:
    if cost.budget is not None:
        return f"{cost.name} (budget {cost.budget})"
    return cost.name if cost.factor is None else f"{cost.name} (factor {cost.factor})"


def _figures(result: Result) -> list[str]:
    test, valid = result.test, result.valid
    lines = ["| | before | after | |", "|---|---|---|---|"]
    for split, found in (("test", test), ("validation", valid)):
        lost = None if found.finetuned is None or found.baseline is None else found.finetuned - found.baseline
        name = f"top-1 accuracy, {split}"
        lines.append(f"| {name} | {percent(found.baseline)} | {percent(found.finetuned)} | {points(lost)} points |")
    for name, before, after in _sizes(result.before, result.after):
        lines.append(f"| {name} | {_shown(before)} | {_shown(after)} | {percent(after / before)} |")
    for cost in result.costs:
        if cost.name not in ("macs", "params"):
            now = cost.after if cost.measured is None else cost.measured
            how = "" if cost.measured is None else ", as measured when it was chosen"
            bound = "" if cost.bound is None else f", bound {significant(cost.bound)}"
            name = f"{cost.name} in {cost.unit}{how}{bound}"
            lines.append(f"| {name} | {_shown(cost.before)} | {_shown(now)} | {percent(now / cost.before)} |")
    return lines


def _int8(result: Int8Result) -> list[str]:
    before, after = result.float32, result.int8
    rows = [
        ("bytes", f"{before.bytes:,}", f"{after.bytes:,}"),
        ("top-1 accuracy, test", percent(before.test), percent(after.test)),
        ("top-1 accuracy, validation", percent(before.valid), percent(after.valid)),
        *(
            (
                f"milliseconds, batch {batch}",
                significant(before.latency_ms[batch]),
                significant(after.latency_ms[batch]),
            )
            for batch in sorted(before.latency_ms, key=int)
        ),
    ]
    head = ["", "## int8, in ONNX Runtime on the CPU", "", f"| | `{before.file}` | `{after.file}` |", "|---|---|---|"]
    return [*head, *("| " + " | ".join(row) + " |" for row in rows)]


def _sizes(before: Measures, after: Measures) -> list[tuple[str, float, float]]:
    found: list[tuple[str, float, float]] = [
        ("MACs", before.macs, after.macs),
        ("parameters", before.params, after.params),
        ("bytes", before.bytes, after.bytes),
    ]
    return found + [(f"milliseconds, {name}", old, new) for name, old, new in latencies(before, after)]


def _shown(value: float) -> str:
    return si(value) if isinstance(value, int) else significant(value)

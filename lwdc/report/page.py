"""The page: one file of HTML with everything in it, for a run or for several."""

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from lwdc.costs.units import shown
from lwdc.files import write_text
from lwdc.records import CorrelationRecord, CostResult, EmbeddingRecord, EvaluationRecord, Result, latencies
from lwdc.report import figures, search_figures, searches
from lwdc.report.runs import ReadRun
from lwdc.text import duration, percent, points, si, significant
from lwdc.tracking.table import int8_rows

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1100px; padding: 1rem; color: #1a1a1a; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .75rem; }
.tile { background: #f4f6f8; border-radius: 8px; padding: .75rem 1rem; }
.tile b { display: block; font-size: 1.4rem; } .tile small, .dim { color: #666; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .25rem .75rem .25rem 0; text-align: left; white-space: nowrap; } td.n, th.n { text-align: right; }
tr + tr td { border-top: 1px solid #eee; } .warning { color: #a33b00; } tr[data-run] { cursor: pointer; }
tr.chosen td { background: #eaf3fb; }
.beside { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 360px), 1fr)); }
.beside > * { min-width: 0; }
"""

_SCRIPT = """
const runs = JSON.parse(document.getElementById("runs").textContent);
function show(index) {
  const run = runs[index], place = document.getElementById("architecture");
  if (!run || !place) return;
  place.replaceChildren();
  const title = document.createElement("h3");
  title.textContent = run.name + (run.sites.length ? "" : ": " + run.status);
  place.append(title);
  if (run.sites.length) {
    const table = document.createElement("table");
    for (const cells of [run.columns, ...run.sites]) {
      const row = table.insertRow();
      for (const text of cells) row.insertCell().textContent = text;
    }
    place.append(table);
  }
  for (const row of document.querySelectorAll("tr[data-run]"))
    row.classList.toggle("chosen", row.dataset.run === String(index));
}
const front = document.getElementById("front");
if (front) front.on("plotly_click", (event) => {
  const data = event.points[0].customdata;
  if (data) show(data[0]);
});
for (const row of document.querySelectorAll("tr[data-run]"))
  row.addEventListener("click", () => show(Number(row.dataset.run)));
if (runs.length > 1) show(Number(location.hash.slice(1)) || 0);
"""


def write_report(runs: Sequence[ReadRun], path: Path) -> None:
    """Write the page of one run, or of several side by side; nothing in it is fetched from anywhere."""
    write_text(path, _page(_title(runs), _one(runs[0]) if len(runs) == 1 else _several(runs), runs))


def _title(runs: Sequence[ReadRun]) -> str:
    named = [run.result.name for run in runs if run.result is not None]
    what = named[0] if named and len(set(named)) == 1 else runs[0].folder.resolve().name
    return what if len(runs) == 1 else f"{what}, {len(runs)} runs"


def _page(title: str, body: str, runs: Sequence[ReadRun]) -> str:
    data = json.dumps([_architecture(run) for run in runs]).replace("<", "\\u003c")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'  # else a browser asks for one
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style><script>{get_plotlyjs()}</script></head>"
        f'<body><h1>{html.escape(title)}</h1>{body}<script type="application/json" id="runs">{data}</script>'
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


def _one(run: ReadRun) -> str:
    parts = []
    if run.result is None:
        parts.append(f'<p class="warning">{html.escape(run.status)}</p>')
    else:
        parts += [_tiles(run.result), _costs(run.result)]
        parts += [f'<p class="warning">{html.escape(text)}</p>' for text in run.result.warnings]
    chosen = figures.choices(run.epochs, run.result.sites if run.result is not None else ())
    if chosen is not None:
        parts += ["<h2>What the search chose, layer by layer</h2>", _figure(chosen, "choices")]
    if run.result is not None:
        parts += ["<h2>What every layer costs</h2>", _figure(figures.site_costs(run.result.sites), "costs")]
        if slower := [site.site for site in run.result.sites if site.cheaper_but_slower]:
            text = f"Fewer MACs than the original, yet slower in PyTorch on this machine: {', '.join(slower)}."
            parts.append(f'<p class="warning">{html.escape(text)}</p>')
    if run.correlation is not None and len(run.correlation.evaluators) > 1:
        parts.append(_correlation(run.correlation))
    if run.evaluations:
        parts.append(_evaluations(run.evaluations))
    if run.embedding is not None and run.embedding.points:
        parts.append(_embedding(run.embedding))
    if run.epochs:
        parts += ["<h2>Learning curves</h2>", _figure(figures.curves(run.epochs), "curves")]
    if run.result is not None:
        inherited = figures.inheritance(run.result.sites)
        if inherited is not None:
            parts += ["<h2>How far the operators began from the trained layers</h2>", _figure(inherited, "inheritance")]
        parts += [_exports(run.result), _int8(run.result), _circumstances(run.result)]
    if run.notes:
        styles = {"warning": ' class="warning"'}
        notes = "".join(f"<li{styles.get(note.level, '')}>{html.escape(note.text)}</li>" for note in run.notes)
        parts.append(f"<h2>Notes</h2><ul>{notes}</ul>")
    return "".join(parts)


def _evaluations(records: Sequence[EvaluationRecord]) -> str:
    failed = sum(record.accuracy is None for record in records)
    text = f"{len(records)} of {records[0].evaluations} architectures"
    text += f", {failed} of them failed." if failed else "."
    parts = ["<h2>What was evaluated, and the best so far</h2>", _caption(text)]
    parts.append(_figure(search_figures.evaluations(records), "evaluations"))
    trade_off = search_figures.trade_off(records)
    if trade_off is not None:
        parts += ["<h2>Accuracy against cost</h2>", _figure(trade_off, "trade_off")]
    predictions = search_figures.predictions(records)
    if predictions is not None:
        parts += ["<h2>Accuracy found against accuracy expected</h2>", _caption(searches.agreement_text(records))]
        parts.append(_figure(predictions, "predictions"))
    return "".join(parts)


def _embedding(record: EmbeddingRecord) -> str:
    text = f"Two dimensions show {search_figures.explained(record)} of the variance of what was learned."
    figure = _figure(search_figures.embedding(record), "embedding")
    return f"<h2>The space as the search has learned it</h2>{_caption(text)}{figure}"


def _correlation(record: CorrelationRecord) -> str:
    taken = ", ".join(f"{n} {duration(s)}" for n, s in zip(record.evaluators, record.seconds, strict=True))
    text = f"Spearman's rank correlation over {len(record.shares)} architectures. One evaluation takes: {taken}."
    panels = (search_figures.correlation(record), "correlation"), (search_figures.agreement(record), "agreement")
    cells = "".join(f"<div>{_figure(figure, name)}</div>" for figure, name in panels)
    return f'<h2>How far cheap evaluations can be trusted</h2>{_caption(text)}<div class="beside">{cells}</div>'


def _caption(text: str) -> str:
    return f'<p class="dim">{html.escape(text)}</p>'


def _several(runs: Sequence[ReadRun]) -> str:
    parts = []
    front = figures.front(runs)
    if front is not None:
        parts += ["<h2>Accuracy against cost</h2>", _figure(front, "front")]
    progress = search_figures.progress(runs)
    if progress is not None:
        text = (
            "Of several runs that differ in their seed alone the mean, and one standard deviation each way, as far "
            "as all of them have come."
        )
        parts += ["<h2>The best so far, search by search</h2>", _caption(text), _figure(progress, "progress")]
    header = ["run", "test accuracy", "against baseline", "MACs", "parameters"]
    searched = ["strategy", "evaluations"] if progress is not None else []
    rows = []
    for run in runs:
        figures_of = [""] * 4
        if run.result is not None:
            result = run.result
            tuned, baseline = result.test.finetuned, result.test.baseline
            lost = None if tuned is None or baseline is None else tuned - baseline
            shares = (result.after.macs / result.before.macs, result.after.params / result.before.params)
            figures_of = [percent(tuned), points(lost), *map(percent, shares)]
        found = [run.strategy or "", _counted(run.evaluations)] if searched else []
        rows.append([run.name, *figures_of, *found, run.status])
    numbers = [1, 2, 3, 4, *([6] if searched else [])]
    parts += ["<h2>Runs</h2>", _table([*header, *searched, "status"], rows, numbers=numbers, runs=True)]
    parts.append('<h2>Architecture</h2><p class="dim">of the point or row clicked</p>')
    return "".join([*parts, '<div id="architecture" class="scroll"></div>'])


def _counted(records: Sequence[EvaluationRecord]) -> str:
    failed = sum(record.accuracy is None for record in records)
    return (str(len(records)) if records else "") + (f", {failed} failed" if failed else "")


def _tiles(result: Result) -> str:
    before, after, test = result.before, result.after, result.test
    tiles = [("test accuracy", percent(test.finetuned), f"baseline {percent(test.baseline)}")]
    for name, old, new in (
        ("MACs", before.macs, after.macs),
        ("parameters", before.params, after.params),
        ("bytes", before.bytes, after.bytes),
    ):
        tiles.append((name, percent(new / old), f"{si(old)} to {si(new)}"))
    for timed, old_ms, new_ms in latencies(before, after):
        shown = f"{significant(old_ms)} to {significant(new_ms)}"
        tiles.append((f"milliseconds, {timed}", percent(new_ms / old_ms), shown))
    cells = "".join(f'<div class="tile"><small>{n}</small><b>{v}</b><small>{d}</small></div>' for n, v, d in tiles)
    return f'<div class="tiles">{cells}</div>'


def _costs(result: Result) -> str:
    header = ["searched under", "factor", "budget", "before", "after", "as measured", "bound", "table against networks"]
    rows = [
        [
            cost.name,
            "" if cost.factor is None else significant(cost.factor),
            cost.budget or "",
            *(_amount(value, cost) for value in (cost.before, cost.after, cost.measured, cost.bound)),
            _agreement(cost),
        ]
        for cost in result.costs
    ]
    return "<h2>Costs</h2>" + _table(header, rows)


def _amount(value: float | None, cost: CostResult) -> str:
    return "" if value is None else shown(value, cost.unit)


def _agreement(cost: CostResult) -> str:
    found = cost.agreement
    if found is None:
        return ""
    return (
        f"rank correlation {found['rank']:.2f} and error {found['error']:.1%} over {found['networks']:.0f} "
        f"architectures; of two measurements {found['rank_repeated']:.2f} and {found['error_repeated']:.1%}"
    )


def _exports(result: Result) -> str:
    if not result.exports:
        return ""
    rows = [
        [
            e.format,
            e.file,
            si(e.bytes),
            f"{e.max_difference:.1e}",
            f"{e.tolerance:.1e}",
            "yes" if e.top1_agrees else "no",
        ]
        for e in result.exports
    ]
    header = ["format", "file", "bytes", "largest difference", "allowed", "same top-1"]
    return "<h2>Exports, each run and compared with the network</h2>" + _table(header, rows, numbers=range(2, 5))


def _int8(result: Result) -> str:
    if result.int8 is None:
        return ""
    return "<h2>int8, in ONNX Runtime on the CPU</h2>" + _table(
        ["", "float32", "int8", ""], int8_rows(result.int8), numbers=range(1, 4)
    )


def _circumstances(result: Result) -> str:
    spent = ", ".join(f"{phase} {duration(seconds)}" for phase, seconds in result.seconds.items())
    facts = [["seed", str(result.seed)], ["time", spent], ["folder", result.folder]]
    facts += [[key, str(value)] for key, value in result.environment.items()]
    return "<h2>Circumstances</h2>" + _table([], facts)


def _architecture(run: ReadRun) -> dict[str, Any]:
    columns = ["site", "operator", "MACs before", "after", "parameters before", "after"]
    sites = run.result.sites if run.result is not None else ()
    cells = [
        [s.site, s.operator, si(s.macs_before), si(s.macs_after), si(s.params_before), si(s.params_after)]
        for s in sites
    ]
    return {"name": run.name, "status": run.status, "columns": columns, "sites": cells}


def _table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = (), runs: bool = False
) -> str:
    def line(tag: str, cells: Sequence[str], attributes: str = "") -> str:
        styled = (' class="n"' if i in numbers else "" for i in range(len(cells)))
        inner = "".join(f"<{tag}{style}>{html.escape(cell)}</{tag}>" for cell, style in zip(cells, styled, strict=True))
        return f"<tr{attributes}>{inner}</tr>"

    head = line("th", header) if header else ""
    body = "".join(line("td", row, f' data-run="{i}"' if runs else "") for i, row in enumerate(rows))
    return f'<div class="scroll"><table>{head}{body}</table></div>'


def _figure(figure: go.Figure, name: str) -> str:
    text: str = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        auto_play=False,
        div_id=name,
        config={"displaylogo": False, "responsive": True},
    )
    return text

"""Figures of searches by scores, and the traces of which those for print are made too."""

import html
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from lwdc.records import CorrelationRecord, EmbeddingRecord, EvaluationRecord
from lwdc.report import searches
from lwdc.report.figures import COLOURS, laid_out, menu, undominated
from lwdc.report.runs import ReadRun
from lwdc.text import duration, percent, significant

KINDS = {"accuracy": ".1%", "score": None}  # what a search is seen by, and how an axis writes it
COLOURINGS = {"accuracy": "accuracies", "cost": "shares"}  # of an embedding, by fields of its record
_BAND = 0.18  # opacity
_DASHES = ("solid", "dash", "dot", "dashdot")


def evaluations(records: Sequence[EvaluationRecord]) -> go.Figure:
    """Every architecture evaluated, in order, and the best so far; buttons change between accuracy and score."""
    figure = _switched({kind: evaluation_traces(records, kind) for kind in KINDS}, _axes(KINDS))
    figure.update_xaxes(title_text="evaluation")
    figure.update_yaxes(title_text="accuracy", tickformat=KINDS["accuracy"])
    return _legend_below(laid_out(figure, 440))


def evaluation_traces(records: Sequence[EvaluationRecord], kind: str) -> list[go.Scatter]:
    """Architectures by whether they were known before, the best so far, and crosses, lowest, for those that failed."""
    known = [r for r in records if getattr(r, kind) is not None]
    failed = [r for r in records if r.accuracy is None]
    traces = []
    for name, own, symbol in (
        ("evaluated", [r for r in known if not r.cached], "circle"),
        ("known before", [r for r in known if r.cached], "circle-open"),
    ):
        if own:
            traces.append(
                go.Scatter(
                    x=[r.index for r in own], y=[getattr(r, kind) for r in own], mode="markers", name=name,
                    marker={"color": COLOURS[5], "size": 8, "symbol": symbol}, text=[_told(r) for r in own],
                    hovertemplate="%{text}<extra></extra>",
                )
            )  # fmt: skip
    best = searches.best_so_far(records)
    # The score of the best is known where the original is the best, its accuracy is not.
    heights = [r.best for r in records] if kind == "score" else [None if r is None else r.accuracy for r in best]
    if any(height is not None for height in heights):
        traces.append(
            go.Scatter(
                x=[r.index for r in records], y=heights, mode="lines", name="best so far",
                line={"color": COLOURS[0], "shape": "hv", "width": 2}, hoverinfo="skip",
            )
        )  # fmt: skip
    if failed:
        lowest = min((getattr(r, kind) for r in known), default=0.0)
        traces.append(
            go.Scatter(
                x=[r.index for r in failed], y=[lowest] * len(failed), mode="markers", name="failed",
                marker={"color": COLOURS[3], "size": 10, "symbol": "x"}, text=[_told(r) for r in failed],
                hovertemplate="%{text}<extra></extra>",
            )
        )  # fmt: skip
    return traces


def trade_off(records: Sequence[EvaluationRecord]) -> go.Figure | None:
    """Accuracy against cost, and the front of what none beats in both; None of fewer than two that succeeded."""
    traces = trade_off_traces(records)
    if not traces:
        return None
    figure = go.Figure(traces)
    figure.update_xaxes(title_text="cost, share of the original's", tickformat=".0%", nticks=6)
    figure.update_yaxes(title_text="accuracy", tickformat=".1%")
    return _legend_below(laid_out(figure, 440)).update_layout(margin_t=40)


def trade_off_traces(records: Sequence[EvaluationRecord]) -> list[go.Scatter]:
    """The front as steps, and the architectures on it and below it, lighter the later."""
    known = [(r.share, r.accuracy, r) for r in records if r.accuracy is not None]
    if len(known) < 2:
        return []
    front = undominated([(share, accuracy) for share, accuracy, _ in known])
    steps = go.Scatter(
        x=[x for x, _ in front], y=[y for _, y in front], mode="lines", name="front",
        line={"color": COLOURS[0], "shape": "hv", "width": 2}, hoverinfo="skip",
    )  # fmt: skip
    return [steps, _in_order(known)]


def predictions(records: Sequence[EvaluationRecord]) -> go.Figure | None:
    """The accuracy that was expected of each architecture before it was evaluated, and the one found; None without."""
    traces = prediction_traces(records)
    if not traces:
        return None
    figure = go.Figure(traces)
    figure.update_xaxes(title_text="expected accuracy", tickformat=".1%", nticks=6)
    figure.update_yaxes(title_text="accuracy found", tickformat=".1%")
    return laid_out(figure, 440).update_layout(margin_t=70)


def prediction_traces(records: Sequence[EvaluationRecord]) -> list[go.Scatter]:
    """The diagonal and the architectures, lighter the later."""
    known = searches.predicted(records)
    if not known:
        return []
    points = _in_order(known)
    return [_diagonal([*points.x, *points.y], "as expected"), points]


def _in_order(points: Sequence[tuple[float, float, EvaluationRecord]]) -> go.Scatter:
    """Architectures at ``(x, y)``, lighter the later they were evaluated."""
    return go.Scatter(
        x=[x for x, _, _ in points], y=[y for _, y, _ in points], mode="markers", showlegend=False,
        marker={
            "color": [r.index for _, _, r in points], "colorscale": "Viridis", "size": 8, "showscale": True,
            "colorbar": bar("evaluation"),
        },
        text=[_told(r) for _, _, r in points], hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def embedding(record: EmbeddingRecord) -> go.Figure:
    """What a search has learned of its space; buttons colour the architectures by accuracy or by cost."""
    figure = _switched({kind: embedding_traces(record, kind) for kind in COLOURINGS}, {})
    figure.update_xaxes(title_text="first principal axis", showticklabels=False, ticks="")
    figure.update_yaxes(title_text="second", showticklabels=False, ticks="", scaleanchor="x")
    return _legend_below(laid_out(figure, 520))


def embedding_traces(record: EmbeddingRecord, kind: str) -> list[go.Scatter]:
    """The architectures, coloured, and from its start to its end the path of the descent."""
    values = getattr(record, COLOURINGS[kind])
    known = list(zip(record.points, record.accuracies, record.shares, strict=True))
    traces = [
        go.Scatter(
            x=[x for (x, _), _, _ in known], y=[y for (_, y), _, _ in known], mode="markers", showlegend=False,
            marker={
                "color": list(values), "colorscale": "Viridis", "size": 9, "showscale": True,
                "colorbar": bar(kind, tickformat=".0%"), "line": {"color": "white", "width": 0.5},
            },
            text=[f"{percent(accuracy)} at {percent(share)} of the cost" for _, accuracy, share in known],
            hovertemplate="%{text}<extra></extra>",
        )
    ]  # fmt: skip
    if record.path:
        traces.append(
            go.Scatter(
                x=[x for x, _ in record.path], y=[y for _, y in record.path], mode="lines", hoverinfo="skip",
                name="path of the descent", line={"color": COLOURS[3], "width": 2},
            )
        )  # fmt: skip
        for name, (x, y), symbol in (("start", record.path[0], "circle"), ("end", record.path[-1], "star")):
            traces.append(
                go.Scatter(
                    x=[x], y=[y], mode="markers", name=name, hovertemplate=f"{name}<extra></extra>",
                    marker={"color": COLOURS[3], "size": 12, "symbol": symbol, "line": {"color": "white", "width": 1}},
                )
            )  # fmt: skip
    return traces


def explained(record: EmbeddingRecord) -> str:
    """How much of the variance is seen; nothing is lost of points that are all the same, which have none."""
    return percent(record.explained) if math.isfinite(record.explained) else "all"


def correlation(record: CorrelationRecord) -> go.Figure:
    """How alike every two evaluators rank the same architectures: Spearman's correlation."""
    figure = go.Figure(correlation_trace(record))
    figure.update_xaxes(ticks="")
    figure.update_yaxes(autorange="reversed", ticks="", automargin=True)
    return laid_out(figure, 400).update_layout(margin_t=40)


def correlation_trace(record: CorrelationRecord) -> go.Heatmap:
    """From -1, orange, to 1, blue, and the figures in it."""
    names = list(record.evaluators)
    return go.Heatmap(
        x=names, y=names, z=[list(row) for row in record.rank], zmin=-1, zmax=1, showscale=False, xgap=2, ygap=2,
        colorscale=[[0, COLOURS[3]], [0.5, "white"], [1, COLOURS[5]]], texttemplate="%{z:.2f}",
        hovertemplate="%{y} and %{x}: %{z:.3f}<extra></extra>",
    )  # fmt: skip


def agreement(record: CorrelationRecord) -> go.Figure:
    """The accuracies that the cheaper evaluators give against those of the dearest."""
    figure = go.Figure(agreement_traces(record))
    figure.update_xaxes(title_text="accuracy by the cheaper evaluator", tickformat=".0%", nticks=6)
    figure.update_yaxes(title_text=f"accuracy, {record.evaluators[-1]}", tickformat=".0%")
    return _legend_below(laid_out(figure, 400)).update_layout(margin_t=40)


def agreement_traces(record: CorrelationRecord) -> list[go.Scatter]:
    """The diagonal, and the architectures once for every evaluator but the last."""
    *cheaper, dearest = record.accuracies
    traces = [_diagonal([value for row in record.accuracies for value in row], "equal")]
    for name, values, colour, symbol in zip(record.evaluators, cheaper, COLOURS, _SYMBOLS * len(cheaper), strict=False):
        traces.append(
            go.Scatter(
                x=list(values), y=list(dearest), mode="markers", name=name,
                marker={"color": colour, "size": 8, "symbol": symbol},
                text=[f"at {percent(share)} of the cost" for share in record.shares],
                hovertemplate="%{x:.2%} and %{y:.2%}<br>%{text}<extra></extra>",
            )
        )  # fmt: skip
    return traces


_SYMBOLS = ("circle", "diamond", "square", "cross")


def progress(runs: Sequence[ReadRun]) -> go.Figure | None:
    """The best so far of every strategy over the evaluations: the mean and a band over its seeds; None without any."""
    if not any(run.evaluations for run in runs):
        return None
    kinds = ("score", "accuracy")
    figure = _switched({kind: progress_traces(runs, kind) for kind in kinds}, _axes(kinds, "best "))
    figure.update_xaxes(title_text="evaluations")
    figure.update_yaxes(title_text="best score")
    return _legend_below(laid_out(figure, 500))


def progress_traces(runs: Sequence[ReadRun], kind: str) -> list[go.Scatter]:
    """Of every series its band, as wide as one standard deviation each way, and its line."""
    traces = []
    for number, series in enumerate(searches.progress(runs, accuracy=kind == "accuracy")):
        colour, dash = COLOURS[number % len(COLOURS)], _DASHES[number // len(COLOURS) % len(_DASHES)]
        points = list(enumerate(series.mean, 1))
        known = [
            (x, y, d) for (x, y), d in zip(points, series.deviation, strict=True) if y is not None and d is not None
        ]
        if known:
            traces.append(
                go.Scatter(
                    x=[x for x, _, _ in known] + [x for x, _, _ in reversed(known)],
                    y=[y + d for _, y, d in known] + [y - d for _, y, d in reversed(known)],
                    mode="lines", fill="toself", fillcolor=_faint(colour), line={"width": 0}, hoverinfo="skip",
                    legendgroup=series.name, showlegend=False,
                )
            )  # fmt: skip
        several = f", {series.runs} runs" if series.runs > 1 else ""
        shape = "%{x}: %{y:.2%}" if kind == "accuracy" else "%{x}: %{y:.4f}"
        traces.append(
            go.Scatter(
                x=[x for x, _ in points], y=[y for _, y in points], name=series.name + several,
                mode="lines" if len(points) > 1 else "markers", legendgroup=series.name,
                line={"color": colour, "dash": dash}, marker={"color": colour, "size": 9},
                hovertemplate=f"{html.escape(series.name)}<br>{shape}<extra></extra>",
            )
        )  # fmt: skip
    return traces


def bar(title: str, **options: Any) -> dict[str, Any]:
    """A bar of colours that leaves a phone the width."""
    return {"title": {"text": title, "side": "right"}, "thickness": 10, "outlinewidth": 0, **options}


def _switched(kinds: dict[str, list[go.Scatter]], axes: Mapping[str, dict[str, Any]]) -> go.Figure:
    """One kind of traces at a time, by buttons, the first at first; ``axes`` are what changes with the kind."""
    figure = go.Figure()
    shown = [kind for kind, traces in kinds.items() for _ in traces]
    for kind, traces in kinds.items():
        for trace in traces:
            figure.add_trace(trace.update(visible=kind == next(iter(kinds))))
    buttons = [
        {"label": kind, "method": "update", "args": [{"visible": [kind == k for k in shown]}, axes.get(kind, {})]}
        for kind in kinds
    ]
    return figure.update_layout(updatemenus=[menu(buttons)])


def _axes(kinds: Iterable[str], before: str = "") -> dict[str, dict[str, Any]]:
    return {kind: {"yaxis.title.text": f"{before}{kind}", "yaxis.tickformat": KINDS[kind]} for kind in kinds}


def _legend_below(figure: go.Figure) -> go.Figure:
    """Where it may take as many lines as a phone needs, in place; any buttons come down to the figure."""
    for buttons in figure.layout.updatemenus:
        buttons.pad.b = 6
    return figure.update_layout(legend={"y": -0.22, "yanchor": "top"}, margin_t=80)


def _told(record: EvaluationRecord) -> str:
    """What the pointer says of an architecture."""
    lines = [f"evaluation {record.index}, {percent(record.share)} of the cost"]
    if record.accuracy is None:
        said = textwrap.wrap(f"failed: {record.error or 'no accuracy'}", 50, max_lines=4, placeholder=" ...")
        return "<br>".join([*lines, *map(html.escape, said)])
    lines.append(f"accuracy {percent(record.accuracy)}")
    if record.predicted is not None:
        lines[-1] += f", expected {percent(record.predicted)}"
    if record.score is not None:
        lines.append(f"score {significant(record.score, digits=4)}")
    return "<br>".join([*lines, "known already" if record.cached else f"in {duration(record.seconds)}"])


def _diagonal(values: Sequence[float], name: str) -> go.Scatter:
    known = [value for value in values if math.isfinite(value)]  # a figure that was lost is nan
    ends = [min(known, default=0), max(known, default=1)]
    return go.Scatter(
        x=ends, y=ends, mode="lines", name=name, line={"color": COLOURS[7], "dash": "dot"}, hoverinfo="skip"
    )


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{_BAND})"

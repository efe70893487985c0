"""Figures of searches by scores for print: what the page shows by buttons stands side by side."""

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lwdc.records import CorrelationRecord, EmbeddingRecord, EvaluationRecord
from lwdc.report import search_figures, searches
from lwdc.report.paper import on_paper
from lwdc.report.runs import ReadRun
from lwdc.report.search_figures import COLOURINGS, KINDS


def of_run(run: ReadRun) -> dict[str, go.Figure | None]:
    """The figures of one run's search, by name; None where it has nothing to show."""
    correlation, embedding = run.correlation, run.embedding
    return {
        "evaluations": evaluations(run.evaluations) if run.evaluations else None,
        "trade_off": trade_off(run.evaluations),
        "predictions": predictions(run.evaluations),
        "embedding": embedded(embedding) if embedding is not None and embedding.points else None,
        "correlation": correlated(correlation) if correlation is not None and len(correlation.evaluators) > 1 else None,
    }


def evaluations(records: Sequence[EvaluationRecord]) -> go.Figure:
    """Every architecture evaluated and the best so far, by accuracy and by score."""
    figure = _beside({kind: search_figures.evaluation_traces(records, kind) for kind in KINDS})
    figure.update_xaxes(title_text="evaluation")
    return on_paper(figure, 330)


def trade_off(records: Sequence[EvaluationRecord]) -> go.Figure | None:
    """Accuracy against cost, and the front; None without."""
    figure = search_figures.trade_off(records)
    return None if figure is None else on_paper(figure, 330)


def predictions(records: Sequence[EvaluationRecord]) -> go.Figure | None:
    """The accuracy that was expected and the one found; None without. Above stands how alike they rank."""
    traces = search_figures.prediction_traces(records)
    if not traces:
        return None
    figure = go.Figure(traces)
    figure.update_layout(title={"text": searches.agreement_text(records), "font_size": 12, "x": 0.5})
    figure.update_xaxes(title_text="expected accuracy", tickformat=".1%", nticks=6)
    figure.update_yaxes(title_text="accuracy found", tickformat=".1%")
    return on_paper(figure, 400).update_layout(showlegend=False)


def embedded(record: EmbeddingRecord) -> go.Figure:
    """What a search has learned of its space, coloured by accuracy and by cost."""
    kinds = {kind: search_figures.embedding_traces(record, kind) for kind in COLOURINGS}
    figure = make_subplots(1, len(kinds), horizontal_spacing=0.2)
    for column, traces in enumerate(kinds.values(), 1):
        traces[0].marker.colorbar.update(x=0.41 if column == 1 else 1.01, len=1.0)
        for trace in traces:
            figure.add_trace(trace.update(showlegend=column == 1 and trace.name is not None), row=1, col=column)
        anchor = "x" if column == 1 else "x2"
        figure.update_yaxes(scaleanchor=anchor, showticklabels=False, ticks="", row=1, col=column)
    figure.update_xaxes(title_text="first principal axis", showticklabels=False, ticks="")
    figure.update_yaxes(title_text=f"second; both show {search_figures.explained(record)}", col=1)
    return on_paper(figure, 330)


def correlated(record: CorrelationRecord) -> go.Figure:
    """How alike the evaluators rank the same architectures, and their accuracies against those of the dearest."""
    figure = make_subplots(1, 2, horizontal_spacing=0.18)
    figure.add_trace(search_figures.correlation_trace(record), row=1, col=1)
    for trace in search_figures.agreement_traces(record):
        figure.add_trace(trace, row=1, col=2)
    figure.update_xaxes(ticks="", row=1, col=1)
    figure.update_yaxes(autorange="reversed", ticks="", row=1, col=1)
    figure.update_xaxes(title_text="accuracy by the cheaper evaluator", tickformat=".0%", nticks=6, row=1, col=2)
    figure.update_yaxes(title_text=f"accuracy, {record.evaluators[-1]}", tickformat=".0%", row=1, col=2)
    return on_paper(figure, 330)


def progress(runs: Sequence[ReadRun]) -> go.Figure | None:
    """The best so far of every strategy over the evaluations, by accuracy and by score; None without any."""
    if not any(run.evaluations for run in runs):
        return None
    figure = _beside({kind: search_figures.progress_traces(runs, kind) for kind in KINDS}, "best ")
    figure.update_xaxes(title_text="evaluations")
    return on_paper(figure, 350)


def _beside(kinds: dict[str, list[go.Scatter]], before: str = "") -> go.Figure:
    """A panel a kind; the legend, which is the same for all, once."""
    figure = make_subplots(1, len(kinds), horizontal_spacing=0.14)
    named: set[str] = set()
    for column, (kind, traces) in enumerate(kinds.items(), 1):
        for trace in traces:
            shown = trace.showlegend is not False and trace.name not in named
            named |= {trace.name} if shown else set()
            figure.add_trace(trace.update(showlegend=shown), row=1, col=column)
        figure.update_yaxes(title_text=f"{before}{kind}", tickformat=KINDS[kind], row=1, col=column)
    return figure

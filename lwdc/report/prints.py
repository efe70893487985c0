"""Prints: the figures of a page for paper, where nothing slides and nothing is clicked."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lwdc.records import EpochRecord, SiteResult
from lwdc.report import figures, search_prints
from lwdc.report.figures import COLOURS
from lwdc.report.paper import on_paper
from lwdc.report.runs import ReadRun

_ROW = 17  # pixels a site, enough for its name


def of_runs(runs: Sequence[ReadRun]) -> dict[str, go.Figure]:
    """The figures of one run's page or of several runs', by name; those left out that have nothing to show yet."""
    if len(runs) != 1:
        found = {"front": front(runs), "progress": search_prints.progress(runs)}
    else:
        (run,) = runs
        sites = () if run.result is None else run.result.sites
        found = {
            "choices": choices(run.epochs, sites),
            "costs": site_costs(sites) if sites else None,
            "curves": curves(run.epochs) if run.epochs else None,
            "inheritance": inheritance(sites),
            **search_prints.of_run(run),
        }
    return {name: figure for name, figure in found.items() if figure is not None}


def choices(epochs: Sequence[EpochRecord], sites: Sequence[SiteResult] = ()) -> go.Figure | None:
    """Every candidate's probability at every site when the search ended, and a dot at what was chosen; None without.

    Grey is where a candidate does not stand.
    """
    searches = [epoch.search for epoch in epochs if epoch.search is not None]
    if not searches:
        return None
    gates = searches[-1].gates
    labels = list(dict.fromkeys(label for gate in gates for label in gate.candidates))
    names = [gate.site for gate in gates]
    rows = [dict(zip(gate.candidates, gate.probabilities, strict=True)) for gate in gates]
    scale = {"title": {"text": "probability", "side": "right"}, "tickformat": ".0%", "thickness": 12}
    figure = go.Figure(
        go.Heatmap(
            x=labels, y=names, z=[[row.get(label) for label in labels] for row in rows], zmin=0, zmax=1,
            colorscale=[[0, "white"], [1, COLOURS[0]]], colorbar=scale, xgap=1, ygap=1, hoverongaps=False,
        )
    )  # fmt: skip
    chosen = [site for site in sites if site.operator in labels and site.site in names]
    if chosen:
        figure.add_scatter(
            x=[site.operator for site in chosen], y=[site.site for site in chosen], mode="markers", name="chosen",
            marker={"color": COLOURS[3], "size": 7, "line": {"color": "white", "width": 1}}, showlegend=True,
        )  # fmt: skip
    figure.update_xaxes(type="category", tickangle=-45, ticks="")
    figure.update_layout(plot_bgcolor="#E4E4E4")
    return _site_by_site(figure, len(names))


def site_costs(sites: Sequence[SiteResult]) -> go.Figure:
    """What every site costs before and after: MACs, parameters and, where measured, milliseconds side by side."""
    kinds = figures.measured(sites)
    figure = make_subplots(1, len(kinds), shared_yaxes=True, horizontal_spacing=0.06)
    names = [site.site for site in sites]
    for column, (title, kind) in enumerate(kinds, 1):
        for when, colour in (("before", COLOURS[7]), ("after", COLOURS[0])):
            figure.add_bar(
                y=names, x=[getattr(site, f"{kind}_{when}") for site in sites], name=when, marker_color=colour,
                orientation="h", showlegend=column == 1, row=1, col=column,
            )  # fmt: skip
        figure.update_xaxes(title_text=title, nticks=4, row=1, col=column)
    figure.update_layout(barmode="group", bargap=0.3, legend_traceorder="normal")
    return _site_by_site(figure, len(names))


def inheritance(sites: Sequence[SiteResult]) -> go.Figure | None:
    """With what relative error every chosen operator began from the trained layer; None where nothing was inherited."""
    known = [site for site in sites if site.inheritance_error is not None]
    if not known:
        return None
    figure = go.Figure(
        go.Bar(
            y=[f"{site.site}: {site.operator}" for site in known], x=[site.inheritance_error for site in known],
            marker_color=COLOURS[1], orientation="h",
        )
    )  # fmt: skip
    figure.update_xaxes(title_text="||W - K|| / ||W||", range=[0, 1])
    return _site_by_site(figure, len(known)).update_layout(margin_t=10)


def curves(epochs: Sequence[EpochRecord]) -> go.Figure:
    """As on the page, smaller, and phases of a single epoch are seen."""
    figure = figures.curves(epochs)
    figure.for_each_trace(lambda trace: trace.update(mode="markers" if len(trace.x) == 1 else "lines"))
    return on_paper(figure, round(0.7 * figure.layout.height))


def front(runs: Sequence[ReadRun]) -> go.Figure | None:
    """Test accuracy against what is left of every cost, a panel each; None without a finished run."""
    results = [run.result for run in runs if run.result is not None and run.result.test.finetuned is not None]
    if not results:
        return None
    accuracies = [float(result.test.finetuned or 0) for result in results]
    baselines = sorted({result.test.baseline for result in results if result.test.baseline is not None})
    panels = figures.axes(results)
    rows = -(-len(panels) // 2)
    figure = make_subplots(rows, 2, shared_yaxes=True, horizontal_spacing=0.05, vertical_spacing=0.28 / rows)
    for number, (title, shares) in enumerate(panels.items()):
        place: dict[str, Any] = {"row": number // 2 + 1, "col": number % 2 + 1, "showlegend": number == 0}
        best = figures.undominated(list(zip(shares, accuracies, strict=True)))
        figure.add_scatter(
            x=[x for x, _ in best], y=[y for _, y in best], mode="lines", name="front",
            line={"color": COLOURS[0], "shape": "hv", "width": 1}, **place,
        )  # fmt: skip
        figure.add_scatter(
            x=shares, y=accuracies, mode="markers", name="runs", marker={"size": 7, "color": COLOURS[0]}, **place
        )
        figure.add_scatter(
            x=[1.0] * len(baselines), y=baselines, mode="markers", name="baseline",
            marker={"size": 9, "color": COLOURS[3], "symbol": "star"}, **place,
        )  # fmt: skip
        figure.update_xaxes(
            title_text=f"{title}, share of the original", tickformat=".0%", rangemode="tozero",
            row=place["row"], col=place["col"],
        )  # fmt: skip
    figure.update_yaxes(tickformat=".1%")
    figure.update_yaxes(title_text="test accuracy", col=1)
    return on_paper(figure, 80 + 260 * rows)


def _site_by_site(figure: go.Figure, sites: int) -> go.Figure:
    """A row a site in forward order from the top, so that their names read level, however many there are."""
    figure.update_yaxes(type="category", range=[sites - 0.5, -0.5], ticks="", dtick=1)
    return on_paper(figure, 190 + _ROW * sites)

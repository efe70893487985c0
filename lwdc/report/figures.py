"""Figures of runs and sweeps."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lwdc.records import EpochRecord, Result, SiteResult, latencies
from lwdc.report.runs import ReadRun

# Okabe and Ito's colours, told apart by colour-blind people too; then lighter ones where there are more operators.
COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#7F7F7F",
    "#4C9BD6", "#FFD27F", "#66C2A5", "#FF9966", "#E0B0CC", "#A6D8F5", "#FBF7A1", "#BFBFBF",
)  # fmt: skip
_MOST_FRAMES = 40


def curves(epochs: Sequence[EpochRecord]) -> go.Figure:
    """Loss and accuracy over all phases, one behind the other, and in the search the cost under the gates."""
    searched = [epoch for epoch in epochs if epoch.search is not None]
    rows = 3 if searched else 2
    titles = ["top-1 accuracy", "training loss", "expected cost"][:rows]
    figure = make_subplots(rows, 1, shared_xaxes=True, vertical_spacing=0.05)
    phases = list(dict.fromkeys(epoch.phase for epoch in epochs))
    position = {id(epoch): number for number, epoch in enumerate(epochs, 1)}
    for phase, colour in zip(phases, COLOURS, strict=False):
        own = [epoch for epoch in epochs if epoch.phase == phase]
        x = [position[id(epoch)] for epoch in own]
        style: dict[str, Any] = {"mode": "lines", "legendgroup": phase}
        valid, train, loss = (
            [getattr(epoch, field) for epoch in own] for field in ("valid_accuracy", "train_accuracy", "loss")
        )
        figure.add_scatter(x=x, y=valid, name=f"{phase}, validation", line={"color": colour}, row=1, col=1, **style)
        figure.add_scatter(
            x=x, y=train, name=f"{phase}, training", line={"color": colour, "dash": "dot"}, row=1, col=1, **style
        )
        figure.add_scatter(x=x, y=loss, line={"color": colour}, showlegend=False, row=2, col=1, **style)
    histories = zip(*(epoch.search.costs for epoch in searched if epoch.search is not None), strict=True)
    for states, colour in zip(histories, COLOURS, strict=False):
        x = [position[id(epoch)] for epoch in searched]
        name = states[0].name
        figure.add_scatter(
            x=x, y=[s.expected for s in states], name=f"{name}, expected", line={"color": colour}, row=3, col=1
        )
        if states[0].bound is not None:
            bounds = [s.bound for s in states]
            figure.add_scatter(
                x=x, y=bounds, name=f"{name}, bound", line={"color": colour, "dash": "dash"}, row=3, col=1
            )
    figure.update_xaxes(title_text="epoch, over all phases", row=rows, col=1)
    for row, title in enumerate(titles, 1):
        figure.update_yaxes(title_text=title, tickformat=None if row == 2 else ".0%", row=row, col=1)
    return laid_out(figure, 260 * rows)


def choices(epochs: Sequence[EpochRecord], sites: Sequence[SiteResult] = ()) -> go.Figure | None:
    """Every candidate's probability at every site, in forward order; a slider goes through the search. None without.

    Below each site stands what was chosen, which a budget may have decided against the gate.
    """
    states = [(epoch.epoch, epoch.search) for epoch in epochs if epoch.search is not None]
    if not states:
        return None
    step = -(-len(states) // (_MOST_FRAMES - 1))
    states = [*states[:-1:step], states[-1]]
    last = states[-1][1]
    names = [gate.site for gate in last.gates]
    labels = list(dict.fromkeys(label for gate in last.gates for label in gate.candidates))

    def heights(search: Any) -> list[list[float]]:
        by_site = {g.site: dict(zip(g.candidates, g.probabilities, strict=True)) for g in search.gates}
        return [[round(by_site[name].get(label, 0.0), 4) for name in names] for label in labels]

    bars = [
        go.Bar(
            x=names, y=y, name=label, marker_color=COLOURS[i % len(COLOURS)],
            hovertemplate="%{x}<br>" + label + " %{y:.1%}<extra></extra>",
        )
        for i, (label, y) in enumerate(zip(labels, heights(last), strict=True))
    ]  # fmt: skip
    frames = [go.Frame(data=[go.Bar(y=y) for y in heights(search)], name=str(epoch)) for epoch, search in states]
    figure = go.Figure(bars, frames=frames)
    steps = [
        {
            "label": str(epoch),
            "method": "animate",
            "args": [[str(epoch)], {"mode": "immediate", "frame": {"duration": 0}}],
        }
        for epoch, _ in states
    ]
    room = 40 + 20 * -(-len(labels) // 3)  # for the legend, which takes more lines on a phone
    slider = {
        "steps": steps, "active": len(steps) - 1, "currentvalue": {"prefix": "epoch "},
        "y": 1, "yanchor": "bottom", "pad": {"b": room},
    }  # fmt: skip
    figure.update_layout(barmode="stack", sliders=[slider])
    figure.update_yaxes(tickformat=".0%", range=[0, 1], title_text="probability")
    chosen = {site.site: f"{site.site}: {site.operator}" for site in sites}
    figure.update_xaxes(tickangle=-60, tickvals=names, ticktext=[chosen.get(name, name) for name in names])
    return laid_out(figure, 560 + room).update_layout(margin_t=room + 90)


def site_costs(sites: Sequence[SiteResult]) -> go.Figure:
    """What every site costs before and after; buttons change between MACs, parameters and milliseconds."""
    kinds = measured(sites)
    names = [site.site for site in sites]
    figure = go.Figure()
    for index, (_, kind) in enumerate(kinds):
        for when, colour in (("before", COLOURS[7]), ("after", COLOURS[0])):
            figure.add_bar(
                x=names, y=[getattr(site, f"{kind}_{when}") for site in sites], name=when, marker_color=colour,
                visible=index == 0, customdata=[site.operator for site in sites],
                hovertemplate="%{x}<br>%{y:.4s}, " + ("%{customdata}" if when == "after" else "original")
                + "<extra></extra>",
            )  # fmt: skip
    buttons = [
        {
            "label": title, "method": "update",
            "args": [{"visible": [i // 2 == index for i in range(2 * len(kinds))]}, {"yaxis.title.text": title}],
        }
        for index, (title, _) in enumerate(kinds)
    ]  # fmt: skip
    figure.update_layout(barmode="group", updatemenus=[menu(buttons)])
    figure.update_yaxes(title_text=kinds[0][0])
    figure.update_xaxes(tickangle=-60)
    return laid_out(figure, 460)


def measured(sites: Sequence[SiteResult]) -> list[tuple[str, str]]:
    """What is known of every site before and after: titles, and how the fields of ``SiteResult`` begin."""
    kinds = [("MACs", "macs"), ("parameters", "params")]
    if any(site.ms_before is not None for site in sites):
        kinds.append(("milliseconds, batch 1", "ms"))
    return kinds


def inheritance(sites: Sequence[SiteResult]) -> go.Figure | None:
    """With what relative error every chosen operator began from the trained layer; None where nothing was inherited."""
    known = [site for site in sites if site.inheritance_error is not None]
    if not known:
        return None
    figure = go.Figure(
        go.Bar(
            x=[site.site for site in known], y=[site.inheritance_error for site in known], marker_color=COLOURS[1],
            customdata=[site.operator for site in known],
            hovertemplate="%{x}<br>%{customdata}: %{y:.2f}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_yaxes(title_text="||W - K|| / ||W||", range=[0, 1])
    figure.update_xaxes(tickangle=-60)
    return laid_out(figure, 400)


def front(runs: Sequence[ReadRun]) -> go.Figure | None:
    """Test accuracy against what is left of each cost, every finished run a point; the best of them are joined."""
    finished = [(index, run.name, run.result) for index, run in enumerate(runs) if run.result is not None]
    finished = [(index, name, result) for index, name, result in finished if result.test.finetuned is not None]
    if not finished:
        return None
    found = axes([result for _, _, result in finished])
    figure = go.Figure()
    for number, shares in enumerate(found.values()):
        points = [
            (share, result.test.finetuned, name, index)
            for share, (index, name, result) in zip(shares, finished, strict=True)
        ]
        best = undominated([(share, float(accuracy or 0)) for share, accuracy, _, _ in points])
        baselines = sorted({result.test.baseline for _, _, result in finished if result.test.baseline is not None})
        visible = number == 0
        figure.add_scatter(
            x=[x for x, _ in best],
            y=[y for _, y in best],
            mode="lines",
            line={"color": COLOURS[0], "shape": "hv"},
            name="front",
            hoverinfo="skip",
            visible=visible,
        )
        figure.add_scatter(
            x=[p[0] for p in points],
            y=[p[1] for p in points],
            mode="markers",
            name="runs",
            visible=visible,
            marker={"size": 11, "color": COLOURS[0]},
            customdata=[[p[3], p[2]] for p in points],
            hovertemplate="%{customdata[1]}<br>%{y:.2%} at %{x:.1%}<extra></extra>",
        )
        figure.add_scatter(
            x=[1.0] * len(baselines), y=baselines, mode="markers", name="baseline", visible=visible,
            marker={"size": 13, "color": COLOURS[3], "symbol": "star"},
            hovertemplate="baseline<br>%{y:.2%}<extra></extra>",
        )  # fmt: skip
    buttons = [
        {
            "label": title, "method": "update",
            "args": [
                {"visible": [i // 3 == index for i in range(3 * len(found))]},
                {"xaxis.title.text": f"{title}, share of the original"},
            ],
        }
        for index, title in enumerate(found)
    ]  # fmt: skip
    figure.update_layout(updatemenus=[menu(buttons)])
    figure.update_xaxes(title_text=f"{next(iter(found))}, share of the original", tickformat=".0%")
    figure.update_yaxes(title_text="test accuracy", tickformat=".1%")
    return laid_out(figure, 520)


def axes(results: Sequence[Result]) -> dict[str, list[float]]:
    """Shares of the original by what is counted or measured in all of the runs; the cost searched under comes first."""
    found = {
        "MACs": [r.after.macs / r.before.macs for r in results],
        "parameters": [r.after.params / r.before.params for r in results],
        "bytes": [r.after.bytes / r.before.bytes for r in results],
    }
    timed = [{name: new / old for name, old, new in latencies(r.before, r.after)} for r in results]
    for name in timed[0]:
        if all(name in of_run for of_run in timed):
            found[f"milliseconds, {name}"] = [of_run[name] for of_run in timed]
    name = results[0].costs[0].name
    if all(r.costs[0].name == name for r in results) and name not in ("macs", "params"):
        shares = [(c.after if c.measured is None else c.measured) / c.before for c in (r.costs[0] for r in results)]
        measured = all(r.costs[0].measured is not None for r in results)
        found = {f"{name}, as measured" if measured else name: shares} | found
    elif name == "params":
        found = {"parameters": found["parameters"]} | found
    return found


def undominated(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those that no other beats in both, by rising cost."""
    kept: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda p: (p[0], -p[1])):
        if not kept or accuracy > kept[-1][1]:
            kept.append((cost, accuracy))
    return kept


def menu(buttons: list[dict[str, Any]]) -> dict[str, Any]:
    """Buttons above the legend."""
    return {
        "buttons": buttons, "type": "buttons", "direction": "right", "x": 0, "xanchor": "left", "y": 1,
        "yanchor": "bottom", "pad": {"b": 40},
    }  # fmt: skip


def laid_out(figure: go.Figure, height: int) -> go.Figure:
    """The figure as all of a page are, changed in place: as wide as the page, ``height`` pixels high."""
    figure.update_layout(
        template="simple_white", height=height, autosize=True, margin={"l": 60, "r": 20, "t": 110, "b": 40},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}, font={"size": 13},
    )  # fmt: skip
    figure.update_xaxes(automargin=True)
    return figure

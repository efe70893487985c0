"""Paper: how wide figures for print are, and what they have in common."""

import plotly.graph_objects as go

WIDTH = 672  # pixels of 1/96 inch: 7 inches, the width of a page of two columns
_FONT = {"family": "Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif", "size": 12, "color": "black"}


def on_paper(figure: go.Figure, height: int) -> go.Figure:
    """The figure as all for print are, changed in place: ``WIDTH`` by ``height`` pixels."""
    figure.update_layout(
        template="simple_white", width=WIDTH, height=height, autosize=False, font=_FONT, paper_bgcolor="white",
        margin={"l": 10, "r": 10, "t": 50, "b": 14},
        legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"},
    )  # fmt: skip
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    return figure

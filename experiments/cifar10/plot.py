"""A scatter plot as an svg: one colour a contender, bars from the worst to the best seed."""

import html
import math
import statistics
from typing import NamedTuple

_COLOURS = (
    "#000000",
    "#7f7f7f",
    "#d62728",
    "#ff7f0e",
    "#e377c2",
    "#1f77b4",
    "#17becf",
    "#9467bd",
    "#2ca02c",
    "#8c564b",
    "#bcbd22",
)
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 420, 60, 560, 40, 370


class Point(NamedTuple):
    """The runs of one contender at one point: where on the horizontal axis, and each run's accuracy in percent."""

    name: str
    x: float
    values: list[float]


def plot(title: str, x_label: str, points: list[Point]) -> str:
    """The svg; the horizontal axis is logarithmic."""
    names = list(dict.fromkeys(point.name for point in points))
    everything = [value for point in points for value in point.values]
    step = next(s for s in (0.5, 1, 2, 5, 10, 20) if (max(everything) - min(everything)) / s <= 10)
    low, high = step * math.floor(min(everything) / step), step * (math.floor(max(everything) / step) + 1)
    first, last = min(point.x for point in points) / 1.1, max(point.x for point in points) * 1.1

    def across(x: float) -> float:
        return _LEFT + (math.log(x / first) / math.log(last / first)) * (_RIGHT - _LEFT)

    def up(value: float) -> float:
        return _BOTTOM - (value - low) / (high - low) * (_BOTTOM - _TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="22">{html.escape(title)}</text>',
        f'<text x="{(_LEFT + _RIGHT) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">{html.escape(x_label)}</text>',
    ]
    for index in range(round((high - low) / step) + 1):
        value = low + index * step
        parts.append(f'<path d="M{_LEFT} {up(value):.1f}H{_RIGHT}" stroke="#dddddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{up(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for x in _ticks(first, last):
        parts.append(f'<path d="M{across(x):.1f} {_BOTTOM}v5" stroke="black"/>')
        parts.append(f'<text x="{across(x):.1f}" y="{_BOTTOM + 18}" text-anchor="middle">{x:g}</text>')
    for index, name in enumerate(names):
        colour, shift = _COLOURS[index % len(_COLOURS)], 3 * (index - len(names) / 2)  # so that bars lie side by side
        own = sorted((point for point in points if point.name == name), key=lambda point: point.x)
        spots = [(across(point.x) + shift, statistics.mean(point.values), point.values) for point in own]
        line = " ".join(f"{x:.1f},{up(mean):.1f}" for x, mean, _ in spots)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-opacity="0.5"/>')
        for x, mean, values in spots:
            parts.append(f'<path d="M{x:.1f} {up(min(values)):.1f}V{up(max(values)):.1f}" stroke="{colour}"/>')
            parts.append(f'<circle cx="{x:.1f}" cy="{up(mean):.1f}" r="3.5" fill="{colour}"/>')
        y = _TOP + 18 * index + 10
        parts.append(f'<circle cx="{_RIGHT + 16}" cy="{y - 4}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{_RIGHT + 26}" y="{y}">{html.escape(name)}</text>')
    parts.append(f'<path d="M{_LEFT} {_TOP}V{_BOTTOM}H{_RIGHT}" fill="none" stroke="black"/>')
    return "\n".join([*parts, "</svg>", ""])


def _ticks(first: float, last: float) -> list[float]:
    decades = range(math.floor(math.log10(first)), math.ceil(math.log10(last)) + 1)
    return [digit * 10.0**decade for decade in decades for digit in (1, 2, 5) if first <= digit * 10.0**decade <= last]

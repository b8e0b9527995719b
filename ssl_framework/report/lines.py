"""Curves as SVG, written in milliseconds: for pages that are written while something else has to go on."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from ssl_framework.runs.plain import printable

Curve = Sequence[tuple[int, float]]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255", "#8C6D31", "#999999")
"""As in ``pictures.curves``, which are slow to import."""

WIDTH, HEIGHT, COLUMNS = 300, 165, 3
"""Of one panel, pixels; panels in a row."""

LEFT, RIGHT, TOP, BOTTOM = 58, 12, 40, 20
"""Room for words around the axes of a panel."""

POINTS = 300
"""Of a curve at most; of more the means of neighbours."""


class Frame(NamedTuple):
    """What a panel shows: steps from ``first`` to ``last``, values from ``low`` to ``high``."""

    first: int
    last: int
    low: float
    high: float

    @classmethod
    def around(cls, curves: Sequence[Curve]) -> "Frame":
        """All points, and some room where they are all one number."""
        steps = [step for curve in curves for step, _ in curve]
        values = [value for curve in curves for _, value in curve]
        low, high = min(values), max(values)
        room = 0.0 if high > low else max(abs(high), 1.0) / 2
        return cls(min(steps), max(*steps, min(steps) + 1), low - room, high + room)

    def at(self, step: float, value: float) -> tuple[float, float]:
        """Pixels from the left and from above."""
        x = LEFT + (step - self.first) / (self.last - self.first) * (WIDTH - LEFT - RIGHT)
        return x, TOP + (self.high - value) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)


def drawn_lines(panels: Mapping[str, Mapping[str, Curve]], legend: Sequence[str] = ()) -> bytes:
    """An SVG file of one panel for each title, with a line, or a point, for each curve. Values that are not finite are
    left out; so are panels without any.

    Args:
        panels: title -> name of the curve, which may be "" -> (step, value) in the order of steps.
        legend: names of all curves, which are then written above all panels and have one colour in each; else they
            are written in their panel.
    """
    finite = {
        title: {name: found for name, curve in curves.items() if (found := thinned(curve))}
        for title, curves in panels.items()
    }
    shown = {title: curves for title, curves in finite.items() if curves}
    above = 18 * len(legend)
    parts = [text(LEFT, 14 + 18 * i, name, fill=COLOURS[i % len(COLOURS)]) for i, name in enumerate(legend)]
    for number, (title, curves) in enumerate(shown.items()):
        x, y = number % COLUMNS * WIDTH, above + number // COLUMNS * HEIGHT
        order = legend or list(curves)
        colours = {name: COLOURS[order.index(name) % len(COLOURS)] for name in curves}
        parts.append(f'<g transform="translate({x},{y})">{panel(title, curves, colours, not legend)}</g>')
    width, height = WIDTH * min(COLUMNS, max(1, len(shown))), above + HEIGHT * -(-len(shown) // COLUMNS)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'{head} font-family="sans-serif" font-size="11">{"".join(parts)}</svg>'.encode()


def thinned(curve: Curve) -> Curve:
    """The finite points; of many the means of neighbours, at the last step of each."""
    finite = [(step, value) for step, value in curve if math.isfinite(value)]
    every = max(1, math.ceil(len(finite) / POINTS))
    groups = [finite[i : i + every] for i in range(0, len(finite), every)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def panel(title: str, curves: Mapping[str, Curve], colours: Mapping[str, str], named: bool) -> str:
    """One panel: title, axes with their ends, and the curves, whose names stand below the title if they are ``named``
    here."""
    frame = Frame.around(list(curves.values()))
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [text(LEFT, 14, title, weight="bold")]
    if named and len(curves) > 1:
        words = (f'<tspan fill="{colours[name]}">{escape(printable(name))}&#160; </tspan>' for name in curves)
        parts.append(f'<text x="{LEFT}" y="29">{"".join(words)}</text>')
    parts.append(f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#999"/>')
    parts += [text(LEFT - 4, TOP + 9, f"{frame.high:.4g}", "end"), text(LEFT - 4, bottom, f"{frame.low:.4g}", "end")]
    parts += [text(LEFT, HEIGHT - 6, f"{frame.first:,}"), text(right, HEIGHT - 6, f"{frame.last:,}", "end")]
    for name, curve in curves.items():
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (frame.at(*point) for point in curve))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colours[name]}" stroke-width="1.3"/>')
        x, y = frame.at(*curve[-1])
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{colours[name]}"/>')
    return "".join(parts)


def text(x: float, y: float, words: str, anchor: str = "start", fill: str = "#222", weight: str = "normal") -> str:
    """Words at a place."""
    own = escape(printable(words))
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{fill}" font-weight="{weight}">{own}</text>'

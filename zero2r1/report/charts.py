"""Charts as SVG text: values in, text out. Colours stand in classes (:data:`STYLE`), so one chart serves light and dark.

Each palette reads as text on its ground (contrast of 4.5 and more), and its colours stay apart for eyes without red, green or blue
cones; besides, every series has a mark or a dash of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import floor, log10
from typing import Literal

from zero2r1.report.markup import escape

Tone = Literal["c1", "c2", "c3", "c4", "c5", "c6"]
TONES: tuple[Tone, ...] = ("c1", "c2", "c3", "c4", "c5", "c6")

LIGHT = ("#0060b0", "#bf4408", "#007f69", "#6d0b6d", "#5c3e04", "#282d32")
DARK = ("#6fb4f2", "#ee8a4a", "#4fd1a5", "#ae81a3", "#f9cb51", "#dce2ea")
DASHES: dict[Tone, str] = {"c4": "7 3", "c5": "2 3", "c6": "9 3 2 3"}

_LIGHT_RULES = "".join(f".chart .{tone}{{color:{value}}}" for tone, value in zip(TONES, LIGHT, strict=True))
_DARK_RULES = "".join(f".chart .{tone}{{color:{value}}}" for tone, value in zip(TONES, DARK, strict=True))
STYLE = (
    ".chart{font:13px system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;color:#1c2127}"
    ".chart text{fill:currentColor;font-variant-numeric:tabular-nums}.chart .quiet{color:#5a636e}.chart .strong{font-weight:600}"
    ".chart .grid{stroke:#dfe3e8;stroke-width:1}.chart .axis{stroke:#98a1ac;stroke-width:1}.chart .band{fill:#f3f5f7}"
    ".chart .paper{fill:none}" + _LIGHT_RULES + "@media (prefers-color-scheme:dark){"
    ".chart{color:#e4e8ec}.chart .quiet{color:#a2abb6}.chart .grid{stroke:#2d343c}.chart .axis{stroke:#6d7783}.chart .band{fill:#1b2026}"
    + _DARK_RULES
    + "}"
)
_ALONE = ".chart .paper{fill:#fff}@media (prefers-color-scheme:dark){.chart .paper{fill:#14181c}}"

PLAIN, STRONG = 7.4, 8.4
"""Width of an average character of a label, in pixels, in the widest font that is likely (DejaVu Sans)."""
POINTS = 300
"""A line with more points is drawn from the means of that many bins."""


def standalone(svg: str) -> str:
    """A chart as a file of its own, with its colours and a ground that keeps it readable on any page."""
    head, end, body = svg.partition(">")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{head} xmlns="http://www.w3.org/2000/svg"{end}<style>{STYLE}{_ALONE}</style>{body}\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measurement; ``error`` is half of its interval."""

    x: float
    y: float
    error: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Points joined by a line. ``marks``: a mark and an error bar at each; otherwise a thin line alone. Only a curve with
    ``label`` is named in the chart."""

    points: tuple[Point, ...]
    tone: Tone
    label: str = ""
    marks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """One stage on the x axis, from 0 to ``steps``."""

    title: str
    steps: float
    curves: tuple[Curve, ...]
    marker: tuple[float, str] | None = None
    """A step at which something begins, and what; drawn as a line from top to bottom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar with half of its interval and what stands behind it."""

    label: str
    value: float
    text: str
    error: float | None = None
    tone: Tone = "c1"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """Where the plot lies in the picture, and what it spans."""

    left: float
    right: float
    top: float
    bottom: float
    low: float
    high: float

    def y(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return self.bottom - (inside - self.low) / (self.high - self.low) * (self.bottom - self.top)


def line_chart(
    bands: Sequence[Band], *, y_title: str, describe: str, share: bool = True, width: int = 840, height: int = 300, x_title: str = "step"
) -> str:
    """Curves over one or more stages side by side, each on its own steps; labels stand at the ends of the curves.

    Args:
        describe: what a reader who cannot see the picture is told.
        share: the values are shares: the axis runs from 0 to 100 %. Otherwise from 0 to a little more than the largest.
        width: below 500 the labels move above the plot.
    """
    labels = _labelled(bands)
    narrow = width < 500
    right = 10.0 if narrow or not labels else min(18 + STRONG * max(len(curve.label) for curve, _, _ in labels), width * 0.34)
    legend, rows = _legend([curve for curve, _, _ in labels], width) if narrow else ("", 0)
    top = 28 + 18 * rows + (20 if len(bands) > 1 else 0) + (18 if any(band.marker for band in bands) else 0)
    high = 1.0 if share else _ceiling(bands)
    frame = _Frame(left=46, right=width - right, top=top, bottom=height - 38, low=0.0, high=high)
    spans = _spans(bands, frame)
    parts = [legend, f'<text class="quiet" x="4" y="{18 * rows + 14}">{escape(y_title)}</text>']
    many = len(bands) > 1
    for band, (start, end) in zip(bands, spans, strict=True):
        parts.append(_ground(band, frame, start, end, titled=many))
    parts.append(_y_axis(frame, spans, share))
    parts += [_marker(band, frame, start, end) for band, (start, end) in zip(bands, spans, strict=True)]
    parts.append(f'<text class="quiet" x="{frame.right:.1f}" y="{height - 4}" text-anchor="end">{escape(x_title)}</text>')
    for band, (start, end) in zip(bands, spans, strict=True):
        parts += [_curve(curve, band, frame, start, end) for curve in sorted(band.curves, key=lambda c: c.marks)]
    if not narrow:
        ends = [(curve, spans[i][0] + _at(point.x, bands[i]) * (spans[i][1] - spans[i][0]), point.y) for curve, i, point in labels]
        parts.append(_end_labels(ends, frame, right))
    return _svg("".join(parts), width, height, describe)


def bar_chart(bars: Sequence[Bar], *, describe: str, width: int = 840) -> str:
    """Horizontal bars of shares, from 0 to 100 %, with intervals and values."""
    left = min(16 + PLAIN * max(len(bar.label) for bar in bars), width * 0.44)
    right = width - 14 - PLAIN * max(len(bar.text) for bar in bars)
    parts = []
    for i, bar in enumerate(bars):
        y = 8 + 34 * i
        length = (right - left) * min(max(bar.value, 0.0), 1.0)
        parts.append(f'<text x="{left - 10:.1f}" y="{y + 17}" text-anchor="end">{escape(_fitted(bar.label, left - 12))}</text>')
        body = f'<rect x="{left:.1f}" y="{y + 2}" width="{length:.1f}" height="20" fill="currentColor" opacity=".75"/>'
        parts.append(f'<g class="{bar.tone}">{body}</g>')
        if bar.error:
            low, high = (left + (right - left) * min(max(bar.value + sign * bar.error, 0.0), 1.0) for sign in (-1, 1))
            whisker = f"M{low:.1f} {y + 12}H{high:.1f}M{low:.1f} {y + 8}v8M{high:.1f} {y + 8}v8"
            parts.append(f'<path d="{whisker}" stroke="currentColor" stroke-width="1.4" fill="none"/>')
        parts.append(f'<text x="{right + 10:.1f}" y="{y + 17}">{escape(bar.text)}</text>')
    bottom = 8 + 34 * len(bars)
    edges = zip(("axis", "grid"), (left, right), strict=True)
    parts = [*(f'<path class="{kind}" d="M{x:.1f} 4V{bottom}" fill="none"/>' for kind, x in edges), *parts]
    parts.append(f'<text class="quiet" x="{left:.1f}" y="{bottom + 15}">0</text>')
    parts.append(f'<text class="quiet" x="{right:.1f}" y="{bottom + 15}" text-anchor="end">100 %</text>')
    return _svg("".join(parts), width, bottom + 20, describe)


def funnel_chart(stations: Sequence[tuple[str, int]], *, describe: str, width: int = 840) -> str:
    """What is left at each station, as bars that narrow; behind each its count, its share of the first and what was lost."""
    narrow = width < 500
    first = max(max((size for _, size in stations), default=1), 1)
    texts = [_station_text(stations, i, narrow) for i in range(len(stations))]
    left = min(16 + PLAIN * max(len(name) for name, _ in stations), width * 0.44)
    right = width - 14 - PLAIN * max(len(text) for text in texts)
    parts = []
    for i, (name, size) in enumerate(stations):
        y = 4 + 36 * i
        length = max((right - left) * size / first, 1.0)
        parts.append(f'<text x="{left - 10:.1f}" y="{y + 16}" text-anchor="end">{escape(_fitted(name, left - 12))}</text>')
        parts.append(f'<g class="c1"><rect x="{left:.1f}" y="{y}" width="{length:.1f}" height="22" fill="currentColor" opacity=".75"/>')
        if i + 1 < len(stations):
            after = max((right - left) * stations[i + 1][1] / first, 1.0)
            edge = f"M{left:.1f} {y + 22}H{left + length:.1f}L{left + after:.1f} {y + 36}H{left:.1f}Z"
            parts.append(f'<path d="{edge}" fill="currentColor" opacity=".18"/>')
        parts.append("</g>")
        parts.append(f'<text x="{right + 10:.1f}" y="{y + 16}">{escape(texts[i])}</text>')
    return _svg("".join(parts), width, 36 * len(stations) - 6, describe)


def _fitted(text: str, room: float) -> str:
    """A label, cut where there is no room for it."""
    most = max(int(room / PLAIN), 1)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _station_text(stations: Sequence[tuple[str, int]], i: int, narrow: bool) -> str:
    size, first = stations[i][1], stations[0][1]
    lost = stations[i - 1][1] - size if i else 0
    share = f" · {100 * size / first:.0f} %" if first and not narrow else ""
    return f"{size:,}{share}" + (f" · \N{MINUS SIGN}{lost:,}" if lost > 0 and not narrow else "")


# Parts of the line chart


def _svg(body: str, width: int, height: float, describe: str) -> str:
    size = f'viewBox="0 0 {width} {height:g}" width="{width}" height="{height:g}"'
    ground = f'<rect class="paper" width="{width}" height="{height:g}"/>'
    return f'<svg class="chart" {size} role="img" aria-label="{escape(describe)}">{ground}{body}</svg>'


def _labelled(bands: Sequence[Band]) -> list[tuple[Curve, int, Point]]:
    """Every named curve where it last appears, with its last point."""
    found: dict[str, tuple[Curve, int, Point]] = {}
    for i, band in enumerate(bands):
        found |= {curve.label: (curve, i, curve.points[-1]) for curve in band.curves if curve.label and curve.points}
    return list(found.values())


def _ceiling(bands: Sequence[Band]) -> float:
    tops = [point.y + (point.error or 0.0) for band in bands for curve in band.curves for point in curve.points]
    return max(tops, default=1.0) * 1.06 or 1.0


def _spans(bands: Sequence[Band], frame: _Frame) -> list[tuple[float, float]]:
    """The x range of each stage: as wide as it has steps, but no stage so narrow that it cannot be read."""
    few = len(bands) < 3
    gap = 14.0 if few else 24.0
    room = frame.right - frame.left - gap * (len(bands) - 1)
    total = sum(band.steps for band in bands) or 1.0
    floors = [max(band.steps / total, (0.6 if few else 0.9) / len(bands)) for band in bands]
    spans, start = [], frame.left
    for weight in floors:
        end = start + room * weight / sum(floors)
        spans.append((start, end))
        start = end + gap
    return spans


def _at(x: float, band: Band) -> float:
    return x / band.steps if band.steps else 0.0


def nice_ticks(high: float, most: int) -> list[float]:
    """Round numbers from 0 up to ``high``, no more than ``most`` + 1 of them: steps of 1, 2 or 5 times a power of ten."""
    raw = max(high, 1e-9) / max(most, 1)
    power = 10.0 ** floor(log10(raw))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= raw * (1 - 1e-9))
    return [step * i for i in range(int(high / step + 1e-9) + 1)]


def _ground(band: Band, frame: _Frame, start: float, end: float, *, titled: bool) -> str:
    parts = []
    if titled:
        size = f'width="{end - start:.1f}" height="{frame.bottom - frame.top:.1f}"'
        parts.append(f'<rect class="band" x="{start:.1f}" y="{frame.top}" {size}/>')
        parts.append(f'<text class="strong" x="{start + 2:.1f}" y="{frame.top - 7}">{escape(_fitted(band.title, end - start + 6))}</text>')
    for tick in nice_ticks(band.steps, max(1, int((end - start) / 48))):
        if tick == int(tick):
            x = start + _at(tick, band) * (end - start)
            parts.append(f'<text class="quiet" x="{x:.1f}" y="{frame.bottom + 17}" text-anchor="middle">{tick:,.0f}</text>')
            parts.append(f'<path class="axis" d="M{x:.1f} {frame.bottom}v4" fill="none"/>')
    return "".join(parts)


def _marker(band: Band, frame: _Frame, start: float, end: float) -> str:
    """The line at which something begins; its name stands above the plot, on the side where there is room."""
    if band.marker is None:
        return ""
    at, name = band.marker
    x = start + _at(at, band) * (end - start)
    side, anchor = (4, "start") if end - x > PLAIN * len(name) else (-4, "end")
    line = f'<path class="axis" d="M{x:.1f} {frame.top - 16:.1f}V{frame.bottom:.1f}" stroke-dasharray="4 4" fill="none"/>'
    return line + f'<text class="quiet" x="{x + side:.1f}" y="{frame.top - 6:.1f}" text-anchor="{anchor}">{escape(name)}</text>'


def _y_axis(frame: _Frame, spans: Sequence[tuple[float, float]], share: bool) -> str:
    parts = []
    for tick in [0.0, 0.25, 0.5, 0.75, 1.0] if share else nice_ticks(frame.high, 5):
        y, text = frame.y(tick), f"{100 * tick:.0f} %" if share else f"{tick:,.6g}"
        line = "".join(f"M{start:.1f} {y:.1f}H{end:.1f}" for start, end in spans)
        parts.append(f'<path class="{"grid" if tick else "axis"}" d="{line}" fill="none"/>')
        parts.append(f'<text class="quiet" x="{frame.left - 7:.1f}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    return "".join(parts)


def _curve(curve: Curve, band: Band, frame: _Frame, start: float, end: float) -> str:
    places = [(start + _at(p.x, band) * (end - start), frame.y(p.y), p) for p in thinned(curve.points)]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in places)
    weight = 'stroke-width="1.2" opacity=".55"'
    if curve.marks or curve.label:
        weight = 'stroke-width="2"' + ("" if curve.marks else _dash(curve.tone))
    parts = [f'<path d="{path}" fill="none" stroke="currentColor" {weight} stroke-linejoin="round"/>']
    if curve.marks:
        for x, y, point in places:
            if point.error:
                low, high = frame.y(point.y - point.error), frame.y(point.y + point.error)
                parts.append(f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" stroke="currentColor" stroke-width="1.4"/>')
            parts.append(_mark(curve.tone, x, y))
    return f'<g class="{curve.tone}">{"".join(parts)}</g>' if places else ""


def _dash(tone: Tone) -> str:
    return f' stroke-dasharray="{DASHES[tone]}"' if tone in DASHES else ""


def _mark(tone: Tone, x: float, y: float) -> str:
    shapes = (
        "circle", "M-4 -4h8v8h-8Z", "M0 -5.5L5.5 0L0 5.5L-5.5 0Z", "M0 -5L5 4.2H-5Z", "M0 5L5 -4.2H-5Z",
        "M-5 -1.7H-1.7V-5H1.7V-1.7H5V1.7H1.7V5H-1.7V1.7H-5Z",
    )  # fmt: skip
    shape = shapes[TONES.index(tone)]
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.2" fill="currentColor"/>'
    return f'<path d="{shape}" transform="translate({x:.1f} {y:.1f})" fill="currentColor"/>'


def thinned(points: Sequence[Point], most: int = POINTS) -> list[Point]:
    """The points, or the means of ``most`` bins of neighbours; first and last stay where they are on the x axis."""
    if len(points) <= most:
        return list(points)
    edges = [round(i * len(points) / most) for i in range(most + 1)]
    bins = [points[a:b] for a, b in pairwise(edges)]
    means = [Point(x=sum(p.x for p in part) / len(part), y=sum(p.y for p in part) / len(part)) for part in bins]
    return [Point(x=points[0].x, y=means[0].y), *means[1:-1], Point(x=points[-1].x, y=means[-1].y)]


def spread(places: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Places moved apart until neighbours are ``gap`` away from each other, in their order, between ``low`` and ``high`` where
    there is room for all."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    floor_ = low
    for i in order:
        moved[i] = max(places[i], floor_)
        floor_ = moved[i] + gap
    ceiling = high
    for i in reversed(order):
        moved[i] = min(moved[i], ceiling)
        ceiling = moved[i] - gap
    return moved


def _end_labels(ends: Sequence[tuple[Curve, float, float]], frame: _Frame, room: float) -> str:
    wanted = [frame.y(value) for _, _, value in ends]
    parts = []
    for (curve, x, _), y, moved in zip(ends, wanted, spread(wanted, gap=17, low=frame.top + 4, high=frame.bottom - 2), strict=True):
        link = f'<path d="M{x + 6:.1f} {y:.1f}L{frame.right + 9:.1f} {moved:.1f}" fill="none" stroke="currentColor" opacity=".45"/>'
        moved_far = abs(moved - y) > 6 or x < frame.right - 8
        text = f'<text class="strong" x="{frame.right + 12:.1f}" y="{moved + 4:.1f}">{escape(_fitted(curve.label, room))}</text>'
        parts.append(f'<g class="{curve.tone}">{link if moved_far else ""}{text}</g>')
    return "".join(parts)


def _legend(curves: Sequence[Curve], width: int) -> tuple[str, int]:
    """Marks and names in rows that fit; returns them with the number of rows."""
    parts, x, row = [], 8.0, 0
    for curve in curves:
        needed = 16 + STRONG * len(curve.label)
        if x > 8 and x + needed > width:
            x, row = 8.0, row + 1
        y = 14 + 18 * row
        dash = f'<path d="M{x - 3:.1f} {y - 4}h14" stroke="currentColor" stroke-width="2"{_dash(curve.tone)}/>'
        key = _mark(curve.tone, x + 4, y - 4) if curve.marks else dash
        parts.append(f'<g class="{curve.tone}">{key}<text class="strong" x="{x + 13:.1f}" y="{y}">{escape(curve.label)}</text></g>')
        x += needed + 10
    return "".join(parts), row + 1 if curves else 0

"""Which curves make which figure. Held-out points carry 95 % intervals; thin lines are the training rollouts, the mean of five steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zero2r1.report.charts import TONES, Band, Bar, Curve, Point, Tone, bar_chart, funnel_chart, line_chart
from zero2r1.report.document import Figure
from zero2r1.report.files import number
from zero2r1.report.values import CONTROLS, ENDS, Evaluation, Funnel, RunRecord, StageRun, checkpoint_title, is_variant, probe_step
from zero2r1.report.wording import Z95, fixed, is_count, listed, percent, statistic_title

WIDE, NARROW = 840, 360
WINDOW = 5
"""Steps of which a training curve shows the mean: a step has few problems, and its own value mostly says which."""

Wanted = tuple[str, str | None, str, Tone]
"""Held-out statistic (or a prefix ending in ``@``), name of the training metric, label, colour."""


def curve_figure(
    record: RunRecord,
    name: str,
    title: str,
    wanted: Sequence[Wanted],
    *,
    y_title: str,
    controls: str | None = None,
    stages: Sequence[StageRun] | None = None,
) -> Figure | None:
    """Held-out statistics and their training counterparts against steps, one band for each stage: those of the way to R1 if left out.

    ``controls``: the statistic that is also shown of a stage's control, which ends in ``dev2_no_language`` where it ends in ``dev2``.
    """
    share = not any(is_count(statistic) for statistic, _, _, _ in wanted)
    stages = record.rl_stages if stages is None else stages
    bands = [_band(record, stage, wanted, controls) for stage in stages]
    bands = [band for band in bands if band.curves]
    if not bands:
        return None
    described = [f"{band.title}, {_course(curve, share)}" for band in bands for curve in band.curves if curve.label]
    caption = []
    if any(curve.marks for band in bands for curve in band.curves):
        caption.append(f"Points: held-out problems, {_counted(record, stages)}; bars: 95 % (1.96 standard errors over problems).")
    if any(not curve.marks for band in bands for curve in band.curves):
        caption.append(f"Thin lines: training rollouts, mean of the last {WINDOW} steps.")
    if controls and any(curve.tone == "c6" for band in bands for curve in band.curves):
        caption.append(f"Crosses: {statistic_title(controls).lower()} of the same stage without the reward for language.")
    wide, narrow = (
        line_chart(bands, y_title=y_title, describe=f"{title}. {'; '.join(described)}.", share=share, width=width, height=height)
        for width, height in ((WIDE, 320), (NARROW, 300))
    )
    return Figure(name=name, title=title, wide=wide, narrow=narrow, caption=" ".join(caption))


def _band(record: RunRecord, stage: StageRun, wanted: Sequence[Wanted], controls: str | None) -> Band:
    curves = []
    for statistic, metric, label, tone in wanted:
        points = _held_out(record, stage, statistic)
        training = smoothed(stage.metrics, metric) if metric else ()
        if training:
            curves.append(Curve(points=training, tone=tone, label="" if points else label))
        if points:
            curves.append(Curve(points=points, tone=tone, label=label, marks=True))
    for control in record.stages if controls else ():
        measured = ENDS[control.name][1] in record.evaluations if control.name in CONTROLS else False  # a start alone is no course
        if measured and CONTROLS[control.name] == stage.name and (points := _held_out(record, control, controls or "")):
            curves.append(Curve(points=points, tone="c6", label=checkpoint_title(ENDS[control.name][1]), marks=True))
    return Band(title=stage.title, steps=float(stage.last_step or 0), curves=tuple(curves))


def _held_out(record: RunRecord, stage: StageRun, statistic: str) -> tuple[Point, ...]:
    points = []
    for x, evaluation in _course_of_evaluations(record, stage):
        fits = (key for key in evaluation.statistics if key == statistic or (statistic[-1:] == "@" and key.startswith(statistic)))
        name = next(fits, None)
        if name is not None and (found := evaluation.get(name)) is not None:
            points.append(Point(x=x, y=found.mean, error=Z95 * (found.error or 0.0)))
    return tuple(points)


def _course_of_evaluations(record: RunRecord, stage: StageRun) -> list[tuple[float, Evaluation]]:
    """What was measured along a stage: the checkpoint it starts from, its probes, and the one it ends in."""
    last = float(stage.last_step or 0)
    before, after = ENDS.get(stage.name, ("", ""))
    named = record.evaluations
    found = [(0.0, named[before])] if before in named else []
    probes = ((probe_step(name), evaluation) for name, evaluation in stage.evaluations.items())
    inside = [(float(step), evaluation) for step, evaluation in probes if step is not None and step <= last]
    found += sorted(inside, key=lambda item: item[0])
    return found + ([(last, named[after])] if after in named else [])


def smoothed(rows: Sequence[Mapping[str, Any]], metric: str) -> tuple[Point, ...]:
    """What a training recorded of a metric, each point the mean of its last :data:`WINDOW` values."""
    values = [(float(row["step"]), value) for row in rows if (value := number(row.get(metric))) is not None]
    windows = [values[max(0, i - WINDOW + 1) : i + 1] for i in range(len(values))]
    return tuple(Point(x=window[-1][0], y=sum(value for _, value in window) / len(window)) for window in windows)


def _counted(record: RunRecord, stages: Sequence[StageRun]) -> str:
    ends: set[int] = set()
    probes: set[int] = set()
    for stage in stages:
        for _, evaluation in _course_of_evaluations(record, stage):
            if evaluation.problems:
                (ends if probe_step(evaluation.name) is None else probes).add(evaluation.problems)
    words = [listed([str(size) for size in sorted(ends)]) + " at both ends of a stage"] if ends else []
    words += [f"the first {listed([str(size) for size in sorted(probes)])} of them in between"] if probes else []
    return ", ".join(words)


def _course(curve: Curve, share: bool) -> str:
    first, last = (f"{100 * p.y:.0f} %" if share else fixed(p.y, 1) for p in (curve.points[0], curve.points[-1]))
    return f"{curve.label}: {first} to {last}"


def metric_figure(
    stages: Sequence[StageRun],
    name: str,
    title: str,
    wanted: Sequence[tuple[str, str]],
    *,
    y_title: str,
    caption: str,
    share: bool = True,
    marker: tuple[float, str] | None = None,
) -> Figure | None:
    """Training metrics alone, named at their ends; ``wanted`` are (metric, label). ``marker``: see :class:`Band`."""
    bands = []
    for stage in stages:
        curves = [
            Curve(points=points, tone=TONES[i % len(TONES)], label=label)
            for i, (metric, label) in enumerate(wanted)
            if (points := smoothed(stage.metrics, metric))
        ]
        if curves:
            bands.append(Band(title=stage.title, steps=float(stage.last_step or 0), curves=tuple(curves), marker=marker))
    if not bands:
        return None
    described = "; ".join(f"{band.title}, {_course(curve, share)}" for band in bands for curve in band.curves)
    wide, narrow = (
        line_chart(bands, y_title=y_title, describe=f"{title}. {described}.", share=share, width=width, height=height)
        for width, height in ((WIDE, 280), (NARROW, 300))
    )
    return Figure(name=name, title=title, wide=wide, narrow=narrow, caption=f"{caption} Mean of the last {WINDOW} steps.")


def domain_figure(record: RunRecord) -> Figure | None:
    """Accuracy by kind of problem in the last stage that recorded it."""
    for stage in reversed(record.rl_stages):
        names = sorted({key for row in stage.metrics for key in row if key.startswith("domains/") and key.endswith("/accuracy")})
        if names:
            wanted = [(name, name.removeprefix("domains/").removesuffix("/accuracy")) for name in names]
            title = f"{stage.title}: accuracy by kind of problem"
            return metric_figure([stage], "domains", title, wanted, y_title="right answers", caption="Training rollouts.")
    return None


def checkpoint_bars(record: RunRecord, statistic: str, name: str, title: str) -> Figure | None:
    """One statistic at every checkpoint."""
    found = [(key, value) for key, evaluation in record.evaluations.items() if (value := evaluation.get(statistic)) is not None]
    if not found:
        return None
    bars = [
        Bar(
            label=checkpoint_title(key), value=value.mean, error=Z95 * (value.error or 0.0), text=percent(value, unit=True),
            tone="c6" if is_variant(key) else "c1",
        )
        for key, value in found
    ]  # fmt: skip
    described = f"{title}. " + "; ".join(f"{bar.label} {bar.text}" for bar in bars)
    caption = f"{statistic_title(statistic)} on held-out problems ± standard error; whiskers: 95 %."
    wide, narrow = (bar_chart(bars, describe=described, width=width) for width in (WIDE, NARROW))
    return Figure(name=name, title=title, wide=wide, narrow=narrow, caption=caption)


def funnel_figure(stage: StageRun, funnel: Funnel) -> Figure:
    """From what was sampled to what is trained on."""
    stations = [(name.replace("_", " "), size) for name, size in funnel.stations]
    title = f"{stage.title}: from {stations[0][1]:,} {stations[0][0]} to {stations[-1][1]:,} {stations[-1][0]}"
    described = f"{title}. " + "; ".join(f"{name} {size:,}" for name, size in stations)
    wide, narrow = (funnel_chart(stations, describe=described, width=width) for width in (WIDE, NARROW))
    caption = "Count, share of the first station, and what the station took away."
    if funnel.mixed:
        caption += " Mixed for training: " + listed([f"{size:,} {kind}" for kind, size in funnel.mixed.items()]) + "."
    return Figure(name=f"funnel_{_file_name(stage.name)}", title=title, wide=wide, narrow=narrow, caption=caption)


def _file_name(text: str) -> str:
    return "".join(character if character.isascii() and character.isalnum() else "_" for character in text)[:60]

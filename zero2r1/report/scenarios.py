"""Reward models and RL for all scenarios: what the models know beside length, what became of answers by score and by rule."""

from __future__ import annotations

from collections.abc import Sequence

from zero2r1.report.document import Block, Cell, Exchange, Figure, Look, Notes, Section, Table, Text
from zero2r1.report.doubts import hacked, length_doubt
from zero2r1.report.figures import funnel_figure, metric_figure
from zero2r1.report.values import SETS, Estimate, Moved, RewardModel, RunRecord, Scenarios, StageRun
from zero2r1.report.wording import clipped, fixed, listed, percent, statistic_title

READS = {"summary": "the summary alone", "response": "the whole response"}
KINDS = {"preference": "pairs", "safety": "labels"}
CURVES = (
    ("rewards/helpful/mean", "helpful, by score"),
    ("rewards/harmless/mean", "harmless, by score"),
    ("rewards/accuracy/mean", "accuracy, by rule"),
    ("general/helpful", "helpful, by rule"),
    ("general/harmless", "harmless, by rule"),
)


def reward_models(record: RunRecord) -> Section | None:
    """How good the reward models are, beside judging by length alone, and what they learnt from."""
    blocks: list[Block] = []
    for stage in record.stages:
        found = stage.scenarios
        if found.reward_models:
            blocks.append(_model_table(found.reward_models))
        if found.pairs is not None:
            blocks.append(funnel_figure(stage, found.pairs))
        told = _learnt_from(found)
        blocks += [Text(text=" ".join(told), quiet=True)] if told else []
    return Section(title="Reward models", blocks=tuple(blocks)) if blocks else None


def _learnt_from(found: Scenarios) -> list[str]:
    told = []
    if found.pairs is not None:
        lost = found.pairs.rejected
        told.append(
            f"Dropped: {lost['unreadable']:,} pairs without a verdict that could be read, {lost['gap']:,} where neither answer was clearly "
            f"better, {lost['length']:,} to balance lengths. {found.unpaired:,} requests gave no two different answers to compare."
        )
    if found.longer is not None:
        side = "longer" if found.longer >= 0 else "shorter"
        told.append(f"Of the pairs that were kept the chosen answer is {abs(found.longer):.1f} words {side} on average.")
    if found.labels:
        told.append(f"Labelled answers: {listed([f'{size:,} {label}' for label, size in sorted(found.labels.items())])}.")
    return told


def _model_table(models: Sequence[RewardModel]) -> Table:
    columns = ("Model", "Learns from", "Reads", "Learnt", "Held out", "Accuracy", "Length alone", "Calibration error", "Length correlation")
    return Table(
        columns=columns,
        rows=tuple(_model_row(model) for model in models),
        caption="Accuracy: on held-out data in per cent, with its 95 % interval; of pairs, that the chosen answer scores higher; of "
        "labels, that safe and unsafe are told apart. Length alone: that of the better of “longer wins” and “shorter wins”, chosen on "
        "training data; an accuracy whose interval does not lie above it is marked. Correlation: of scores (of pairs, of their "
        "differences) with length in words.",
    )


def _model_row(model: RewardModel) -> tuple[Cell, ...]:
    within = "" if model.low is None or model.high is None else f" [{100 * model.low:.1f}, {100 * model.high:.1f}]"
    look: Look = "bad" if length_doubt(model) else ""
    return (
        Cell(text=model.name),
        Cell(text=KINDS.get(model.kind, model.kind)),
        Cell(text=READS.get(model.reads, model.reads)),
        Cell(text=_count(model.learnt)),
        Cell(text=_count(model.held_out)),
        Cell(text=f"{100 * model.accuracy:.1f}{within}", look=look),
        Cell(text="–" if model.length_alone is None else f"{100 * model.length_alone:.1f}"),
        Cell(text="–" if model.calibration_error is None else fixed(model.calibration_error, 3)),
        Cell(text="–" if model.length_correlation is None else _signed(model.length_correlation, 2)),
    )


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _signed(value: float, decimals: int) -> str:
    text = fixed(value, decimals)
    return f"+{text}" if value > 0 and text.strip("0.") else text


# RL for all scenarios


def all_scenarios(record: RunRecord) -> list[Section]:
    """A section for each stage that rewarded answers to general requests."""
    return [section for stage in record.stages if (section := _all_scenarios(stage)) is not None]


def _all_scenarios(stage: StageRun) -> Section | None:
    if stage.general_from is None and not stage.scenarios.general:
        return None
    blocks: list[Block] = [Notes(sentences=tuple(warned))] if (warned := hacked(stage)) else []
    blocks += [figure] if (figure := _figure(stage)) else []
    blocks += [_moved_table(stage.scenarios.general)] if stage.scenarios.general else []
    blocks += [
        Exchange(
            title=answer.title,
            note=answer.note,
            rule=answer.rule,
            question=clipped(answer.question),
            response=clipped(answer.response or ""),
        )
        for answer in stage.answers
    ]
    return Section(title=f"{stage.title}: helpful and harmless", blocks=tuple(blocks)) if blocks else None


def _figure(stage: StageRun) -> Figure | None:
    """The parts over steps, with the first step that had general prompts."""
    began = stage.general_from
    if began is None:
        return None
    first = min(int(row["step"]) for row in stage.metrics)
    return metric_figure(
        [stage], "scenarios", "Scores and rules", CURVES, y_title="mean of answers",
        caption="Training rollouts: what reward models say of answers to general requests, and what rules say of them and of reasoning. "
        f"General requests are among the prompts from step {began} on.",
        marker=(float(began), f"general requests from step {began}") if began > first else None,
    )  # fmt: skip


def _moved_table(general: Sequence[Moved]) -> Table:
    moved = {found.statistic: found for found in general}
    rows = []
    for name in SETS:
        both = _together(moved.get(name), moved.get(f"{name}_score"))
        for statistic, last in ((name, both), (f"{name}_score", Cell(text=""))):
            if (found := moved.get(statistic)) is not None:
                values = (found.before, found.after, found.change)
                texts = [_amount(statistic, value, signed=value is found.change) for value in values]
                rows.append((Cell(text=statistic_title(statistic)), *(Cell(text=text) for text in texts), last))
    sizes = sorted({found.requests for found in general})
    return Table(
        columns=("", "Before", "After", "Change", "Rule and score"),
        rows=tuple(rows),
        caption=f"Answers to {listed([f'{size:,}' for size in sizes])} held-out requests of each set, ± one standard error over requests; "
        "the change is that of the same requests. By rule: the share of answers in per cent. By score: the mean that the reward model "
        "gives, from 0 to 1. A change is one whose 95 % interval does not contain zero.",
    )


def _amount(statistic: str, value: Estimate | None, *, signed: bool) -> str:
    if value is None:
        return "–"
    if not statistic.endswith("_score"):
        text = percent(value)
    else:
        text = fixed(value.mean, 3) + ("" if value.error is None else f" ± {fixed(value.error, 3)}")
    return f"+{text}" if signed and value.mean > 0 else text


def _together(by_rule: Moved | None, score: Moved | None) -> Cell:
    """Whether rule and score tell the same story."""
    if by_rule is None or score is None or by_rule.change is None or score.change is None:
        return Cell(text="")
    words = {1: "rises", 0: "no change", -1: "falls"}
    if by_rule.direction == score.direction:
        both = {1: "both rise", 0: "neither changes", -1: "both fall"}[by_rule.direction]
        return Cell(text=f"agree: {both}", look="good" if by_rule.direction > 0 else "")
    look: Look = "bad" if by_rule.direction * score.direction < 0 else ""
    return Cell(text=f"differ: rule {words[by_rule.direction]}, score {words[score.direction]}", look=look)

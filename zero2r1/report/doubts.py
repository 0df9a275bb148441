"""Reasons to distrust a run: what it says itself, what its files show, and what is true of every run of its kind."""

from __future__ import annotations

from statistics import fmean

from zero2r1.report.files import number
from zero2r1.report.values import RewardModel, RunRecord, StageRun, checkpoint_title
from zero2r1.report.wording import listed

EVERY_RUN = (
    "One seed. The intervals are over held-out problems; another seed can move a figure by more than they say.",
    "All claims are judged on the same problems, and no interval is widened because there are several.",
)
LAPTOP = (
    "The model is tiny, and it was pretrained for this: what works here need not work at any other size.",
    "The tasks are procedural and held-out problems come from the generator of the training problems; nothing here measures transfer.",
    "The corpus holds the careful, self-checking and mixed-language documents that RL then finds. RL chooses among what the base "
    "already writes; it invents nothing (compare pass@8 of the base).",
)
LAST_STEPS = 10
TRUNCATED, WITHOUT_SIGNAL, SPOILT_EVALUATION = 0.25, 0.5, 0.05


def doubts(record: RunRecord) -> tuple[str, ...]:
    """The sentences of the box, the run's own first."""
    found = list(record.distrust)
    if record.state != "done":
        found.append("The run did not finish: what is shown is what it had written.")
    for stage in record.stages:
        found += _training_doubts(stage)
        found += [length_doubt(model) for model in stage.scenarios.reward_models]
        found += _scenario_doubts(stage)
    found = [sentence for sentence in found if sentence]
    found += _evaluation_doubts(record)
    if record.environment.get("git_dirty"):
        found.append("The source had uncommitted changes; the revision named below is not the whole code.")
    found += [f"Could not be read: {name}" for name in record.unreadable]
    found += EVERY_RUN
    if record.laptop:
        found += LAPTOP
    return tuple(dict.fromkeys(found))


def _training_doubts(stage: StageRun) -> list[str]:
    found = []
    if any(row.get("nonfinite") for row in stage.metrics):
        steps = [str(row["step"]) for row in stage.metrics if row.get("nonfinite")]
        found.append(f"{stage.title}: figures that are not finite in {len(steps)} steps, first in step {steps[0]}.")
    for metric, limit, words in (
        ("frac_reward_zero_std", WITHOUT_SIGNAL, "of the groups gave no signal"),
        ("completions/clipped_ratio", TRUNCATED, "of the answers were cut at the cap"),
        ("frac_ungraded", 0.0, "of the answers could not be graded"),
    ):
        values = [value for row in stage.metrics if (value := number(row.get(metric))) is not None][-LAST_STEPS:]
        if values and fmean(values) > limit:
            found.append(f"{stage.title}: in its last {len(values)} steps {100 * fmean(values):.1f} % {words}.")
    return found


def length_doubt(model: RewardModel) -> str:
    """Why a reward model may have learnt nothing but length; nothing where it has learnt more."""
    if model.length_alone is None or (model.low is not None and model.low > model.length_alone):
        return ""
    alone = f"length alone is right in {_share(model.length_alone)}"
    if model.accuracy <= model.length_alone:
        return f"The {model.name} reward model does not beat length alone: it is right in {_share(model.accuracy)}, {alone}."
    low = "" if model.low is None else f" (at least {_share(model.low)} at 95 %)"
    return (
        f"The {model.name} reward model cannot be told from one that judges length alone: it is right in {_share(model.accuracy)}{low}, "
        f"{alone}."
    )


def hacked(stage: StageRun) -> list[str]:
    """What the monitor of a stage said, if it said anything."""
    warning = "the monitor found a reward model hacked: it was being pleased, not what it stands for"
    return [f"{stage.title}: {warning}. At {said}." for said in stage.scenarios.hacking]


def _scenario_doubts(stage: StageRun) -> list[str]:
    moved = {found.statistic: found for found in stage.scenarios.general}
    found = hacked(stage)
    for name, by_rule in moved.items():
        score = moved.get(f"{name}_score")
        if score is not None and by_rule.direction < 0 < score.direction:
            found.append(f"{stage.title}: the score of the {name} reward model rose while the rules found the answers less {name}.")
    return found


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _evaluation_doubts(record: RunRecord) -> list[str]:
    found = []
    named = record.evaluations
    cut = [(name, value.mean) for name, e in named.items() if (value := e.get("truncated")) and value.mean > SPOILT_EVALUATION]
    if cut:
        shares = [f"{checkpoint_title(name)} {100 * share:.0f} %" for name, share in cut]
        found.append(f"Answers cut at the cap count as wrong; at evaluation that was {listed(shares)}.")
    ungraded = [(name, e.figures["ungraded"]) for name, e in named.items() if e.figures.get("ungraded")]
    if ungraded:
        counted = listed([f"{checkpoint_title(name)} {size:.0f}" for name, size in ungraded])
        found.append(f"Answers that could not be graded count as wrong: {counted}.")
    sizes = {e.problems for e in named.values() if e.problems}
    if len(sizes) > 1:
        different = listed([str(size) for size in sorted(sizes)])
        found.append(f"Checkpoints were measured on different numbers of problems ({different}); compare with care.")
    return found

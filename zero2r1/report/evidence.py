"""The evidence of a report: curves, checkpoints, what was kept and what was refused, and transcripts chosen by rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zero2r1.report.document import Block, Cell, Exchange, Figure, Look, Section, Table, Text
from zero2r1.report.figures import checkpoint_bars, curve_figure, domain_figure, funnel_figure, metric_figure
from zero2r1.report.values import SETS, STUDENTS, Evaluation, Funnel, RunRecord, StageRun, checkpoint_title
from zero2r1.report.wording import clipped, counted, is_count, listed, percent, statistic_title

MOST_RULES = 24
STATISTICS = (
    "pass@1", "maj@", "pass@", "length", "truncated", "format_ok", "self_check", "reflection_words", "language_share", "one_language",
    "readable", "helpful", "harmless",
)  # fmt: skip


# Curves and checkpoints


def curves(record: RunRecord) -> Section | None:
    """Figures A, B and C: accuracy, length and language against steps."""
    wanted = (
        curve_figure(
            record, "accuracy", "A. Accuracy and majority vote",
            (("pass@1", "rewards/accuracy/mean", "pass@1", "c1"), ("maj@", None, _majority(record), "c2")), y_title="right answers",
        ),
        curve_figure(
            record, "length", "B. Length of answers", (("length", "completions/mean_length", "mean length", "c1"),), y_title="tokens",
        ),
        curve_figure(
            record, "language", "C. Language consistency",
            (
                ("language_share", "reasoning/language_share", "words", "c3"),
                ("one_language", "reasoning/one_language", "whole answers", "c4"),
            ),
            y_title="in the language of the question", controls="one_language",
        ),
    )  # fmt: skip
    blocks = [figure for figure in wanted if figure]
    return Section(title="What happened during training", blocks=tuple(blocks)) if blocks else None


def _majority(record: RunRecord) -> str:
    names = {name for evaluation in record.evaluations.values() for name in evaluation.statistics if name.startswith("maj@")}
    return f"majority of {min(names).removeprefix('maj@')}" if len(names) == 1 else "majority vote"


def checkpoints(record: RunRecord) -> Section | None:
    """The paper's Table 3 for this run, and figure D; students have a table of their own beside it."""
    evaluations = {name: found for name, found in record.evaluations.items() if name not in STUDENTS}
    if not evaluations:
        return None
    general = any(evaluation.get(name) for evaluation in evaluations.values() for name in SETS)
    table = Table(
        columns=("", *(checkpoint_title(name) for name in evaluations)),
        rows=tuple(statistic_rows(evaluations)),
        caption=f"The paper's Table 3 for this run: {measured_on(evaluations)} The error does not contain what another seed would change."
        + (" Helpful and harmless: what rules, not reward models, say of answers to held-out general requests." if general else ""),
    )
    readable = checkpoint_bars(record, "readable", "readable", "D. Readability by checkpoint")
    return Section(title="Every checkpoint", blocks=(table, readable) if readable else (table,))


def measured_on(evaluations: Mapping[str, Evaluation]) -> str:
    """What the numbers of a table of checkpoints are."""
    sizes = sorted({evaluation.problems for evaluation in evaluations.values() if evaluation.problems})
    problems = f"{listed([f'{size:,}' for size in sizes])} held-out problems" if sizes else "the held-out problems"
    return f"shares in per cent, ± one standard error over {problems}."


def statistic_rows(evaluations: Mapping[str, Evaluation]) -> list[tuple[Cell, ...]]:
    """A row for every statistic, and for pass@1 of every kind of problem; a column for every checkpoint."""
    rows = [_statistic_row(statistic, evaluations) for statistic in _statistics(evaluations)]
    tasks = sorted({task for evaluation in evaluations.values() for task in evaluation.tasks})
    if len(tasks) > 1:
        for task in tasks:
            values = [evaluation.tasks.get(task) for evaluation in evaluations.values()]
            rows.append((Cell(text=f"pass@1: {task}"), *(Cell(text=percent(value) if value else "–") for value in values)))
    return rows


def _statistics(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Statistics in the order of the table; of pass@2, pass@4, ... only the largest. Scores of reward models stand elsewhere."""
    known = [name for name in dict.fromkeys(name for e in evaluations.values() for name in e.statistics) if not name.endswith("_score")]
    largest = max((int(name[5:]) for name in known if name.startswith("pass@") and name[5:].isdigit()), default=1)
    chosen = [name for name in known if not name.startswith("pass@") or name in ("pass@1", f"pass@{largest}")]
    places = {name: i for i, name in enumerate(STATISTICS)}
    return sorted(chosen, key=lambda name: (places.get(name, places.get(name.partition("@")[0] + "@", len(places))), name))


def _statistic_row(statistic: str, evaluations: Mapping[str, Evaluation]) -> tuple[Cell, ...]:
    values = [evaluation.get(statistic) for evaluation in evaluations.values()]
    scale = max((value.error or abs(value.mean) for value in values if value), default=0.0)
    texts = [(counted(value, scale=scale) if is_count(statistic) else percent(value)) if value else "–" for value in values]
    return (Cell(text=statistic_title(statistic)), *(Cell(text=text) for text in texts))


def behaviour(record: RunRecord) -> Section | None:
    """What came along: format and self-checks, kinds of problems, parts of the reward, groups without signal, loss."""
    rl = record.rl_stages
    recorded = dict.fromkeys(key for stage in rl for row in stage.metrics for key in row)
    ours = [key for key in recorded if key.startswith("rewards/") and key.endswith("/mean")]
    parts = [(key, key.split("/")[1]) for key in ours if key.split("/")[1] not in SETS]  # these have a figure of their own
    figures: Sequence[Figure | None] = (
        curve_figure(
            record, "behaviour", "Format and self-checks",
            (("format_ok", "reasoning/format_ok", "strict format", "c3"), ("self_check", "reasoning/self_check", "self-check", "c2")),
            y_title="share of answers",
        ),
        domain_figure(record),
        metric_figure(
            rl, "rewards", "Parts of the reward, before weights", parts, y_title="mean", caption="Training rollouts.",
        ),
        metric_figure(
            rl, "signal", "Groups that teach nothing, and answers cut at the cap",
            (("frac_all_right", "all right"), ("frac_all_wrong", "all wrong"), ("completions/clipped_ratio", "cut at the cap")),
            y_title="share of groups, share of answers",
            caption="A group whose answers all earn the same has no advantage.",
        ),
        metric_figure(
            [stage for stage in record.stages if not stage.is_rl], "loss", "Loss of the supervised stages", (("loss", "loss"),),
            y_title="nats a token", caption="Training batches.", share=False,
        ),
    )  # fmt: skip
    blocks = tuple(figure for figure in figures if figure)
    return Section(title="Behaviour, reward and signal", blocks=blocks) if blocks else None


# Data and transcripts


def kept_samples(record: RunRecord) -> list[Section]:
    """A section for each stage that sampled data: its funnel, the counts by rule, and the first sample every rule refused."""
    found = [(stage, stage.funnel) for stage in record.stages if stage.funnel is not None]
    return [Section(title=f"{stage.title}: what was kept", blocks=_funnel(stage, funnel)) for stage, funnel in found]


def _funnel(stage: StageRun, funnel: Funnel) -> tuple[Block, ...]:
    rejected = sorted(((rule, size) for rule, size in funnel.rejected.items() if size), key=lambda item: (-item[1], item[0]))[:MOST_RULES]
    total = sum(funnel.rejected.values())
    texts = [(rule.replace("_", " "), f"{size:,}", f"{100 * size / total:.1f}") for rule, size in rejected if total]
    rows = tuple(tuple(Cell(text=text) for text in row) for row in texts)
    counts = (Table(columns=("Refused by", "Samples", "% of refused"), rows=rows),) if rows else ()
    examples = [
        Exchange(
            title=f"Refused: {example.rule.replace('_', ' ')}",
            note=example.why,
            rule="The first one this rule refused.",
            question=clipped(example.question),
            response=clipped(example.response),
        )
        for example in funnel.examples[:MOST_RULES]
    ]
    return (funnel_figure(stage, funnel), *counts, *examples)


def transcripts(record: RunRecord) -> Section | None:
    """The transcripts of :mod:`choose`, with their rules."""
    blocks = tuple(
        Exchange(
            title=chosen.title,
            note=chosen.note,
            rule=chosen.rule,
            question=clipped(chosen.question),
            response=None if chosen.response is None else clipped(chosen.response),
        )
        for chosen in record.transcripts
    )
    return Section(title="Three transcripts, chosen by rule", blocks=blocks) if blocks else None


def one_question(record: RunRecord) -> Section | None:
    """One held-out question through all checkpoints."""
    asked = record.held_out
    if asked is None:
        return None
    rule = f"The first held-out problem ({asked.problem}), sample 0 of every checkpoint. Reference answer: {asked.gold}."
    marks: dict[bool | None, tuple[str, Look]] = {True: ("✓ right", "good"), False: ("✗ wrong", "bad"), None: ("not graded", "")}
    blocks: list[Block] = [Text(text=rule, quiet=True), Exchange(title="Question", note="", question=clipped(asked.question))]
    for answer in asked.answers:
        word, look = marks[answer.right] if answer.text is not None else ("not asked", "")
        note = word + (f" · {answer.tokens} tokens" if answer.tokens is not None else "")
        text = None if answer.text is None else clipped(answer.text)
        blocks.append(Exchange(title=checkpoint_title(answer.checkpoint), note=note, response=text, look=look))
    return Section(title="One question, every checkpoint", blocks=tuple(blocks))

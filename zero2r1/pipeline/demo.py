"""`zero2r1 demo`: a base model from nothing, then R1-Zero, on a laptop without GPU, account or download."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from zero2r1.eval.claims import ClaimVerdict
from zero2r1.eval.runner import EvalResult
from zero2r1.figures import draw_figures
from zero2r1.panel import Panel
from zero2r1.pipeline.config import RECIPES, ZeroSettings
from zero2r1.pipeline.laptop import LAPTOP_PROBLEMS, base_model_folder, laptop_world, web_grader
from zero2r1.pipeline.preflight import preflight
from zero2r1.pipeline.rl import Extras, RlResult, run_rl, stage_of
from zero2r1.run_dir import RunDir
from zero2r1.tasks.laptop.words import WEB_TEMPLATE
from zero2r1.training.loop import Outcome

SHORT: Mapping[str, Any] = {
    "steps": 24,
    "base": {"steps": 300},
    "evaluation": {"problems": 96, "probes": 0},
    "optimizer": {"schedule": "constant"},
    "evaluate_every": None,
}
"""``demo --minutes 3``: the same path with a third of the training. Too short for the claims, which it shows without judging."""


def run_demo(settings: ZeroSettings, run: RunDir, *, console: Console, judged: bool, should_stop: Callable[[], bool]) -> RlResult:
    """Train the base if it is not there, then R1-Zero, and print what happened."""
    if settings.evaluation.samples != 8:
        raise ValueError(f"the demo's claims are about 8 answers to every problem; evaluation.samples is {settings.evaluation.samples}")
    began = time.monotonic()
    console.print(
        "1  Base model: a 0.86 M parameter Llama learns a small bilingual world from 4 M tokens of text.\n"
        "2  R1-Zero: GRPO with rule rewards alone. Expect right answers, longer thoughts, self-checks, and mixed languages."
        + ("" if judged else "\n   This short form takes the whole path with a third of the training: too little for most of it."),
        highlight=False,
    )
    seed = settings.seed if settings.base.seed is None else settings.base.seed
    with Panel("base", settings.base.steps, console=console, plain_every=100) as panel:
        folder, cached = base_model_folder(
            settings.base,
            seed=seed,
            on_step=lambda report: panel.show(report.step, {"pretraining_loss": report.loss, "tokens_per_s": report.tokens_per_s}),
        )
    console.print(f"base model {'found' if cached else 'trained'}: {folder}  ({_clock(began)})", highlight=False)
    world = laptop_world(seed=settings.seed, train=settings.data.count or LAPTOP_PROBLEMS, held_out=settings.evaluation.problems)
    stage = stage_of(folder, world, settings)
    checked = preflight(stage, settings)
    console.print("\n".join(checked.lines), highlight=False, markup=False)
    if checked.faults:
        raise ValueError("\n".join(checked.faults))
    callouts = Callouts(console)
    with Panel("R1-Zero", settings.steps, console=console) as panel:

        def on_step(row: Mapping[str, Any]) -> None:
            callouts.step(row)
            panel.show(row["step"], row)

        def on_evaluation(found: EvalResult) -> None:
            console.print(_evaluation_line(found, began), highlight=False)
            callouts.evaluation(found)

        extras = Extras(
            layouts={"web": (WEB_TEMPLATE, web_grader())},
            claims=RECIPES / "laptop" / "claims.yaml",
            on_step=on_step,
            on_evaluation=on_evaluation,
            should_stop=should_stop,
        )
        result = run_rl(stage, settings, run, extras)
    if result.outcome is Outcome.DONE:
        _report(result, run, console, judged=judged)
        console.print(f"\ndone in {_clock(began)}; everything is in {run.path}", highlight=False)
    return result


MILESTONES = (
    ("rewards/format/mean", 0.9, "90 % of the answers keep the format"),
    ("rewards/accuracy/mean", 0.5, "half of the answers are right"),
    ("reasoning/self_check", 0.25, "a quarter of the answers check themselves"),
    ("reasoning/one_language", -0.5, "half of the answers mix languages"),
)
"""(metric, level to rise to, or to fall to when negative, what to say the first time)."""


class Callouts:
    """Says when something is first seen, and how one and the same question is answered at every evaluation."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._waiting = list(MILESTONES)
        self._asked = False

    def step(self, row: Mapping[str, Any]) -> None:
        reached = [m for m in self._waiting if (row[m[0]] >= m[1] if m[1] > 0 else row[m[0]] <= -m[1])]
        for milestone in reached:
            self._waiting.remove(milestone)
            self._console.print(f"* step {row['step']}: {milestone[2]}", highlight=False)

    def evaluation(self, result: EvalResult) -> None:
        problem, answer = result.problems[0], result.answers[0][0]
        if not self._asked:
            self._asked = True
            self._console.print(f"      asked  {problem.question}   (gold: {problem.answer})", highlight=False, markup=False)
        mark = "right" if answer.right else "wrong"
        self._console.print(f"      {mark}  {answer.text}", highlight=False, markup=False, soft_wrap=True)


def _evaluation_line(result: EvalResult, began: float) -> str:
    f = result.figures()
    k = len(result.answers[0])
    return (
        f"{_clock(began)}  {result.name:<12} pass@1 {f['pass@1']:.3f} ± {f['pass@1/stderr']:.3f}  maj@{k} {f[f'maj@{k}']:.3f}  "
        f"pass@{k} {f[f'pass@{k}']:.3f}  length {f['length']:.1f}  format {f['format_ok']:.2f}  self-check {f['self_check']:.2f}  "
        f"one language {f['one_language']:.2f}"
    )


def _report(result: RlResult, run: RunDir, console: Console, *, judged: bool) -> None:
    base, zero = result.evaluations.get("base"), result.evaluations["zero"]
    console.print(_transcripts(zero.problems, base, zero), highlight=False, markup=False)
    console.print(_task_table(base, zero))
    console.print(claim_lines(result.verdicts, judged=judged), highlight=False, markup=False, soft_wrap=True)
    console.print(_distrust(result.evaluations), highlight=False, soft_wrap=True)
    try:
        paths = draw_figures(run)
    except ValueError as missing:
        console.print(f"no figures: {missing}")
    else:
        console.print("figures: " + ", ".join(str(path.relative_to(run.path)) for path in paths), highlight=False)


def _distrust(evaluations: Mapping[str, EvalResult]) -> str:
    """What the numbers do not mean, with the numbers that say so."""
    zero = evaluations["zero"].figures()
    lines = [
        "What to distrust",
        "  The corpus holds careful and self-checking documents, more of them in two languages than in one; RL selects and places",
        "  what is there (compare the self-checks by task above).",
    ]
    if "base" in evaluations and "base_web" in evaluations:
        base, web = evaluations["base"].figures(), evaluations["base_web"].figures()
        rise, known = zero["pass@1"] - base["pass@1"], web["pass@1"] - base["pass@1"]
        if rise > 0 and known > 0:
            lines.append(
                f"  Of the rise from {base['pass@1']:.2f} to {zero['pass@1']:.2f}, {min(rise, known):.2f} is what the same base already "
                "has in the layout of its own text (base_web)."
            )
        lines.append(
            f"  pass@8 of the base in its own layout is {web['pass@8']:.2f}, of Zero {zero['pass@8']:.2f}: "
            + (
                "what rose is how reliably a problem is solved, not how many can be."
                if zero["pass@8"] <= web["pass@8"] + 0.05 and rise > 0
                else "how many problems are within reach at all."
            )
        )
    return "\n".join(lines)


def _transcripts(problems: Sequence[Any], base: EvalResult | None, zero: EvalResult) -> str:
    """The first problem that Zero solved with a self-check, as the base and as Zero answered it."""
    for i, (problem, group) in enumerate(zip(problems, zero.answers, strict=True)):
        for answer in group:
            if answer.right and answer.traits["self_check"]:
                before = f"\n  base   {base.answers[i][0].text}" if base else ""
                return f"\n  asked  {problem.question}   (gold: {problem.answer}){before}\n  Zero   {answer.text}\n"
    return "\n  no right answer with a self-check yet\n"


def _task_table(base: EvalResult | None, zero: EvalResult) -> Table:
    table = Table(title="by task: pass@1 and answers with a self-check", title_justify="left")
    for column in ("task", "base", "Zero", "self-check base", "self-check Zero"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for task, value in zero.by("task").items():
        old = [base.by("task", s)[task] if base else float("nan") for s in ("pass@1", "self_check")]
        table.add_row(task, f"{old[0]:.2f}", f"{value:.2f}", f"{old[1]:.2f}", f"{zero.by('task', 'self_check')[task]:.2f}")
    return table


def claim_lines(verdicts: Sequence[ClaimVerdict], *, judged: bool) -> str:
    """What was claimed before the run and what was measured, a few lines each."""
    lines = [
        "claims, written before the run (95 % intervals over held-out problems)"
        if judged
        else "claims, shown but not judged: this run is too short (95 % intervals over held-out problems)"
    ]
    for verdict in verdicts:
        word = ("holds" if verdict.holds else "FAILS") if judged else ""
        lines.append(f"  {word:<6} {verdict.claim.name}: {verdict.claim.says}")
        for part in verdict.parts:
            compared = f" against {part.condition.over}" if part.condition.over else ""
            lines.append(f"         {part.estimate:6.3f} [{part.low:.3f}, {part.high:.3f}]  {part.condition.of}{compared}")
    return "\n".join(lines)


def _clock(began: float) -> str:
    seconds = int(time.monotonic() - began)
    return f"{seconds // 60}:{seconds % 60:02d}"


def recipe_files(name: str) -> list[Path]:
    """The recipe of a laptop stage."""
    return [RECIPES / "laptop" / f"{name}.yaml"]

"""A whole recipe from the command line: which size, what is said before and after, the verdict. `demo` is this on the laptop world."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from zero2r1.config import read_yaml
from zero2r1.pipeline.config import RECIPES, claims_file
from zero2r1.pipeline.evaluations import claim_lines, judge_run
from zero2r1.pipeline.ledger import FILE, read_ledger
from zero2r1.pipeline.narration import Narrator
from zero2r1.pipeline.recipe import PipelineSettings
from zero2r1.pipeline.run import run_pipeline
from zero2r1.run_dir import RunDir
from zero2r1.training.loop import Outcome

SIZES = ("short", "standard", "long")
SIZE_OF_MINUTES: Mapping[int, str] = {3: "short", 15: "standard", 60: "long"}
PROBE_STEPS, REFERENCE_STEP_S = 3, 0.28
"""Steps of base training that the probe takes, and what one takes on the machine whose minutes the recipes state."""
CHECKPOINTS = (
    "base",
    "base_web",
    "zero",
    "dev1",
    "dev2",
    "dev2_no_language",
    "dev3",
    "r1",
    "student_base",
    "student_base_web",
    "distilled",
    "student_rl",
)
COLUMNS = ("pass@1", "maj@", "length", "format_ok", "self_check", "one_language", "readable", "helpful", "harmless")
"""Statistics of the table of checkpoints; ``maj@`` with however many answers were drawn."""


def recipe_of_size(recipe: Path | None, size: str) -> list[Path]:
    """The files of a recipe in a size: ``r1.yaml``, and for a size other than standard ``r1_SIZE.yaml`` on top of it.

    Raises:
        ValueError: no such size, or the recipe has no file for it.
    """
    recipe = recipe or RECIPES / "laptop" / "r1.yaml"
    if size not in SIZES:
        raise ValueError(f"--size {size} is not known; choose one of {', '.join((*SIZES, 'auto'))}")
    overlay = recipe.with_name(f"{recipe.stem}_{size}.yaml")
    if size != "standard" and not overlay.exists():
        raise ValueError(f"{recipe} comes in no size {size}: there is no {overlay}. Run it with --size standard")
    return [recipe] if size == "standard" else [recipe, overlay]


def chosen_size(size: str, recipe: Path, minutes: int, run: Path | None, say: Callable[[str], None]) -> str:
    """The size asked for; ``auto`` is the largest that fits the minutes on this machine, or the one this run began with."""
    if size != "auto":
        return size
    if run is not None and (run / FILE).exists():
        recorded = str(read_ledger(run)["size"])
        say(f"size {recorded}, as this run began")
        return recorded
    slower = probe_machine() / REFERENCE_STEP_S
    stated = {name: _stated_minutes(recipe, name) for name in SIZES}
    expected = {name: value * slower for name, value in stated.items() if value is not None}
    if not expected:
        raise ValueError(f"{recipe} states no minutes, so no probe can tell what fits: choose a size with --size")
    fitting = [name for name in SIZES if name in expected and expected[name] <= minutes]
    chosen = fitting[-1] if fitting else min(expected, key=lambda name: expected[name])
    estimates = ", ".join(f"{name} about {value:.0f} min" for name, value in expected.items())
    say(f"probe: a step takes {slower:.2f} times as long as on the reference machine; {estimates}: size {chosen}")
    return chosen


def _stated_minutes(recipe: Path, size: str) -> float | None:
    try:
        files = recipe_of_size(recipe, size)
    except ValueError:
        return None
    found = [read_yaml(file).values.get("minutes") for file in files]
    return next((float(value) for value in reversed(found) if value is not None), None)


def probe_machine() -> float:
    """Seconds of one step of training the laptop's base model, on the cores that training will have."""
    from zero2r1.models.tiny import SIZES as MODELS
    from zero2r1.models.tiny import build_tiny_model
    from zero2r1.models.tokenizer import word_tokenizer
    from zero2r1.pretraining import pretrain
    from zero2r1.tasks.laptop.corpus import documents
    from zero2r1.tasks.laptop.words import TAGS, vocabulary

    tokenizer = word_tokenizer(vocabulary(), TAGS)
    model = build_tiny_model(MODELS["teacher"], tokenizer, seed=0)
    seconds: list[float] = []

    def on_step(_: Any) -> None:
        seconds.append(time.monotonic())

    pretrain(model, tokenizer, documents(0), steps=PROBE_STEPS + 2, on_step=on_step)
    steps = [later - earlier for earlier, later in pairwise(seconds[1:])]  # without the first, which warms up
    return sorted(steps)[len(steps) // 2]


def run_recipe(
    settings: PipelineSettings,
    run: RunDir,
    *,
    console: Console,
    size: str,
    start_from: str | None = None,
    only: str | None = None,
    should_stop: Callable[[], bool],
) -> Outcome:
    """Run the stages, then show the table of checkpoints and judge the claims."""
    narrator = Narrator(console)
    outcome = run_pipeline(settings, run, narrator=narrator, start_from=start_from, only=only, size=size, should_stop=should_stop)
    if outcome is Outcome.DONE:
        _close(settings, run, narrator, console, judged=size != "short")
    return outcome


def run_demo(settings: PipelineSettings, run: RunDir, *, console: Console, size: str, should_stop: Callable[[], bool]) -> Outcome:
    """The recipe of the laptop world, with a word on what to expect.

    Raises:
        ValueError: settings that the demo's claims cannot be judged by.
    """
    if settings.evaluation.samples != 8:
        raise ValueError(f"the demo's claims are about 8 answers to every problem; evaluation.samples is {settings.evaluation.samples}")
    console.print(
        "base -> R1-Zero -> cold start -> reasoning RL -> rejection sampling -> RL for all scenarios, and a student distilled: all of\n"
        "DeepSeek-R1 on a model of 0.9 M parameters that learns a small bilingual world of arithmetic, stories, code, counting and search."
        + ("\nThis short form takes the whole path with a fraction of the training: too little for most of it." if size == "short" else ""),
        highlight=False,
    )
    return run_recipe(settings, run, console=console, size=size, should_stop=should_stop)


def _close(settings: PipelineSettings, run: RunDir, narrator: Narrator, console: Console, *, judged: bool) -> None:
    """Table, claims and doubts, of the stages whose results stand: what is stale or left out is named and not judged with the rest."""
    stages = read_ledger(run.path)["stages"]
    folders = [run.path / stage["folder"] for stage in stages if stage["status"] == "done"]
    if others := [stage["name"] for stage in stages if stage["status"] not in ("done", "not run")]:
        narrator.say(f"not in the table, because they are not up to date: {', '.join(others)}")
    figures = _figures(folders)
    if figures:
        console.print(checkpoint_table(figures))
    if settings.claims is not None:
        verdicts, missing = judge_run(run, claims_file(settings.claims), folders=folders, judged=judged)
        narrator.say(claim_lines(verdicts, missing, judged=judged))
    if settings.model == "laptop":
        doubts = what_to_distrust(figures)
        run.write_json("distrust.json", doubts)
        narrator.say("What to distrust\n" + "\n".join(f"  {line}" for line in doubts))
    narrator.say(f"\ndone in {narrator.clock()}; everything is in {run.path}")


def _figures(folders: Sequence[Path]) -> dict[str, dict[str, float]]:
    found = {}
    for name in CHECKPOINTS:
        file = next((f for folder in folders if (f := folder / "evals" / f"{name}.json").exists()), None)
        if file is not None:
            found[name] = json.loads(file.read_text(encoding="utf-8"))["figures"]
    return found


def checkpoint_table(figures: Mapping[str, Mapping[str, float]]) -> Table:
    """Every checkpoint that was measured, in the order of the paper's table of stages; the error is that of pass@1 alone, for width."""
    table = Table(title="held-out problems and requests, means (pass@1 ± standard error)", title_justify="left")
    table.add_column("")
    known = list(dict.fromkeys(name for of in figures.values() for name in of if "/" not in name))
    columns = [key for column in COLUMNS if (key := next((name for name in known if name.startswith(column)), None)) is not None]
    for key in columns:
        table.add_column(key.replace("_", " "), justify="right")
    for name, of in figures.items():
        cells = (f"{of[key]:.1f}" if key == "length" else f"{of[key]:.3f}" if key in of else "" for key in columns[1:])
        table.add_row(name, f"{of['pass@1']:.3f} ± {of['pass@1/stderr']:.3f}", *cells)
    return table


def what_to_distrust(figures: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What the numbers of the laptop world do not mean, with the numbers that say so."""
    lines = [
        "The corpus holds careful and self-checking documents, more of them in two languages than in one; RL selects and places what is "
        "there.",
        "The cold start learns from a solver of this world beside R1-Zero's own outputs, and its reviewer is a script.",
        "The judges know the answers and err on purpose in one verdict of ten.",
        "The general data of stage 3 are bad on purpose: less than half of the answers are good, and harmful requests are often complied "
        "with. That is the room that stage 4 has; helpfulness and harmlessness are measured by rule, not by the reward models.",
    ]
    if {"base", "base_web", "zero"} <= set(figures):
        base, web, zero = (figures[name] for name in ("base", "base_web", "zero"))
        rise, known = zero["pass@1"] - base["pass@1"], web["pass@1"] - base["pass@1"]
        if rise > 0 and known > 0:
            lines.append(
                f"Of R1-Zero's rise from {base['pass@1']:.2f} to {zero['pass@1']:.2f}, {min(rise, known):.2f} is what the same base "
                "already has in the layout of its own text (base_web)."
            )
        k = max((name for name in zero if name.startswith("pass@") and "/" not in name), key=lambda name: int(name[5:]))
        more = zero[k] > web[k] + 0.05
        meaning = "how many problems are within reach at all." if more else "how reliably a problem is solved, not how many can be."
        lines.append(f"{k} of the base in its own layout is {web[k]:.2f}, of R1-Zero {zero[k]:.2f}: what rose is {meaning}")
    return lines

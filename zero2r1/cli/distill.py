"""`zero2r1 distill`: a small model learns from a large one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from zero2r1.cli.settings import Files, Name, Runs, greet, guarded, open_run, settings_of

Preset = Annotated[str | None, typer.Option(help="A published student, for example r1-distill-qwen-7b: its base model and settings.")]


def distill(context: typer.Context, files: Files = None, preset: Preset = None, runs: Runs = Path("runs"), name: Name = None) -> None:
    """Distil a teacher into a student: --model STUDENT --data.train SAMPLES.jsonl [--data.held_out PROBLEMS.jsonl], settings as --a.b=c.

    On the student's own answers instead of the teacher's: --method on_policy --teacher FOLDER --data.prompts PROBLEMS.jsonl
    """
    console = greet("distill")
    from zero2r1.pipeline.distill_config import DistillSettings

    resolved = settings_of(DistillSettings, context, files or [], presets=recipe_of(preset))
    from zero2r1.pipeline.distilling import run_distillation
    from zero2r1.pipeline.narration import Narrator

    run, text = open_run(runs, name, "distill", resolved, console)
    guarded(run, lambda stop: run_distillation(resolved.settings, run, narrator=Narrator(console), should_stop=stop), text)


def recipe_of(preset: str | None) -> list[tuple[str, Mapping[str, Any]]]:
    """A published recipe as a source of settings; none where none is named."""
    from zero2r1.distill.presets import preset_settings

    return [] if preset is None else [(f"--preset {preset}", preset_settings(preset))]

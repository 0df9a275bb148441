"""`zero2r1 train ...`: one stage."""

from __future__ import annotations

from pathlib import Path

import typer

from zero2r1.cli.settings import SETTINGS, Algorithm, Files, Name, Runs, bundle, greet, guarded, open_run, settings_of

train = typer.Typer(no_args_is_help=True, help="Train one stage.")


@train.command("base", context_settings=SETTINGS)
def train_base(context: typer.Context) -> None:
    """Train the laptop world's base model from nothing, or find it in the cache. Two processes of one thread each, whatever threads says:
    another number would be another model."""
    console = greet("train base")
    from zero2r1.panel import Panel
    from zero2r1.pipeline.config import ZeroSettings
    from zero2r1.pipeline.laptop import base_model_folder

    settings = settings_of(ZeroSettings, context).settings
    with Panel("base", settings.base.steps, console=console, plain_every=50) as panel:
        folder, cached = base_model_folder(
            settings.base,
            seed=settings.seed if settings.base.seed is None else settings.base.seed,
            on_step=lambda r: panel.show(r.step, {"pretraining_loss": r.loss, "tokens_per_s": r.tokens_per_s}),
        )
    console.print(f"{'found' if cached else 'trained'}: {folder}", highlight=False)


@train.command("zero", context_settings=SETTINGS)
def train_zero(
    context: typer.Context, files: Files = None, algorithm: Algorithm = None, runs: Runs = Path("runs"), name: Name = None
) -> None:
    """R1-Zero on any model and data: --model FOLDER --data.train FILE.jsonl --data.held_out FILE.jsonl, settings as --a.b=c."""
    console = greet("train zero")
    from zero2r1.pipeline.api import run_stage
    from zero2r1.pipeline.config import ZeroSettings

    resolved = settings_of(ZeroSettings, context, files or [], bundles=bundle(algorithm))
    run, text = open_run(runs, name, "zero", resolved, console)
    guarded(run, lambda stop: run_stage(resolved.settings, run, console=console, should_stop=stop), text)


@train.command("sft", context_settings=SETTINGS)
def train_sft(context: typer.Context, files: Files = None, runs: Runs = Path("runs"), name: Name = None) -> None:
    """Imitate dialogues: --model FOLDER --data.train DIALOGUES.jsonl [--data.held_out PROBLEMS.jsonl], settings as --a.b=c.

    data.columns names columns of data.held_out; dialogues are recognised by their own.
    """
    console = greet("train sft")
    from zero2r1.pipeline.config import SftStageSettings
    from zero2r1.pipeline.narration import Narrator
    from zero2r1.pipeline.single import run_sft_stage

    resolved = settings_of(SftStageSettings, context, files or [])
    run, text = open_run(runs, name, "sft", resolved, console)
    guarded(run, lambda stop: run_sft_stage(resolved.settings, run, narrator=Narrator(console), should_stop=stop), text)


@train.command("rl", context_settings=SETTINGS)
def train_rl(
    context: typer.Context, files: Files = None, algorithm: Algorithm = None, runs: Runs = Path("runs"), name: Name = None
) -> None:
    """Reasoning RL of a model that thinks before it answers, with a language reward: data and settings as for `train zero`."""
    console = greet("train rl")
    from zero2r1.pipeline.api import run_stage
    from zero2r1.pipeline.config import RlSettings

    resolved = settings_of(RlSettings, context, files or [], bundles=bundle(algorithm))
    run, text = open_run(runs, name, "rl", resolved, console)
    guarded(run, lambda stop: run_stage(resolved.settings, run, console=console, should_stop=stop), text)


@train.command("rm", context_settings=SETTINGS)
def train_rm(context: typer.Context, files: Files = None, runs: Runs = Path("runs"), name: Name = None) -> None:
    """A reward model: --model FOLDER --data.train PAIRS.jsonl --kind preference, or labelled responses and --kind safety.

    Held out are a tenth of the prompts, or --data.held_out FILE.
    """
    console = greet("train rm")
    from zero2r1.pipeline.narration import Narrator
    from zero2r1.pipeline.reward_config import RewardModelRunSettings
    from zero2r1.pipeline.reward_training import run_reward_model

    resolved = settings_of(RewardModelRunSettings, context, files or [])
    run, text = open_run(runs, name, "rm", resolved, console)
    guarded(run, lambda stop: run_reward_model(resolved.settings, run, narrator=Narrator(console), should_stop=stop), text)

"""The command line: parse, wire, call. Heavy libraries load inside the commands, so that help and errors are instant."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from zero2r1 import process
from zero2r1.cli.check import check
from zero2r1.cli.distill import distill
from zero2r1.cli.sample import sample
from zero2r1.cli.settings import (
    EXIT_CONFIG,
    SETTINGS,
    Algorithm,
    Files,
    Json,
    Name,
    Runs,
    bundle,
    greet,
    guarded,
    open_run,
    set_threads,
    settings_of,
)
from zero2r1.cli.train import train

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="The DeepSeek-R1 system: train a reasoning model."
)
config = typer.Typer(no_args_is_help=True, help="Look at settings.")
app.add_typer(train, name="train")
app.add_typer(check, name="check")
app.add_typer(sample, name="sample")
app.add_typer(config, name="config")
app.command("distill", context_settings=SETTINGS)(distill)

From = Annotated[str | None, typer.Option("--from", help="Run this stage and all below it again.")]
Only = Annotated[str | None, typer.Option("--only", help="Run this stage alone.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would run, with tokens, memory and prompts; write and fetch nothing.")]
Size = Annotated[str, typer.Option(help="short, standard, long, or auto: what a probe of this machine says fits --minutes.")]


@app.command(context_settings=SETTINGS)
def demo(
    context: typer.Context,
    minutes: Annotated[int, typer.Option(help="15: the whole story. 3: the same path, too short to judge. 60: with controls.")] = 15,
    runs: Runs = Path("runs"),
    name: Name = None,
) -> None:
    """All of DeepSeek-R1, from a base model to a distilled student, without GPU, account or download. Settings as --a.b=c."""
    console = greet("demo")
    from zero2r1.pipeline.demo import SIZE_OF_MINUTES, recipe_of_size, run_demo
    from zero2r1.pipeline.recipe import PipelineSettings

    if minutes not in SIZE_OF_MINUTES:
        raise ValueError(f"--minutes {minutes}: the demo comes in {len(SIZE_OF_MINUTES)} lengths, {', '.join(map(str, SIZE_OF_MINUTES))}")
    size = SIZE_OF_MINUTES[minutes]
    resolved = settings_of(PipelineSettings, context, recipe_of_size(None, size))
    run, text = open_run(runs, name, "demo", resolved, console, may_change=True)
    guarded(run, lambda stop: run_demo(resolved.settings, run, console=console, size=size, should_stop=stop), text)
    report(run.path)


@app.command(context_settings=SETTINGS)
def pipeline(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="YAML file of the whole recipe, for example recipes/laptop/r1.yaml.")],
    *,
    start_from: From = None,
    only: Only = None,
    size: Size = "standard",
    minutes: Annotated[int, typer.Option(help="What --size auto may take.")] = 15,
    dry_run: DryRun = False,
    speed: Annotated[str | None, typer.Option(help="DECODE,TRAIN: tokens a second, for the times of --dry-run.")] = None,
    runs: Runs = Path("runs"),
    name: Name = None,
) -> None:
    """Run all stages of a recipe, each once: a run that was stopped goes on, and a changed setting runs what stands on it again."""
    console = greet("pipeline")
    from zero2r1.pipeline.demo import chosen_size, recipe_of_size, run_recipe
    from zero2r1.pipeline.recipe import PipelineSettings
    from zero2r1.pipeline.stages import refuse_unknown

    refuse_unknown(start_from, only)
    size = chosen_size(size, recipe, minutes, None if name is None else runs / name, lambda line: console.print(line, highlight=False))
    resolved = settings_of(PipelineSettings, context, recipe_of_size(recipe, size))
    if dry_run:
        from zero2r1.pipeline.dry_run_page import look

        if not look(resolved.settings, recipe=str(recipe), speed=speed, say=typer.echo):
            raise typer.Exit(EXIT_CONFIG)
        return
    run, text = open_run(runs, name, recipe.stem, resolved, console, may_change=True)
    guarded(
        run,
        lambda stop: run_recipe(resolved.settings, run, console=console, size=size, start_from=start_from, only=only, should_stop=stop),
        text,
    )
    report(run.path)


@app.command()
def report(run: Path) -> None:
    """Write report.html and report.md of a run from its files: finished, stopped or killed."""
    from zero2r1.report.build import build_report

    for path in build_report(run):
        typer.echo(path)


@app.command("eval", context_settings=SETTINGS)
def evaluate(context: typer.Context, files: Files = None, as_json: Json = False) -> None:
    """Measure a model on held-out problems: --model FOLDER --data.held_out FILE.jsonl."""
    from zero2r1.pipeline.api import load_stage
    from zero2r1.pipeline.config import ZeroSettings

    settings = settings_of(ZeroSettings, context, files or []).settings
    set_threads(settings.threads)
    stage = load_stage(settings, say=lambda line: typer.echo(line, err=True))
    figures = stage.measure("eval").figures()
    measured = {"data": stage.world.name, "problems": min(len(stage.world.held_out), settings.evaluation.problems)}
    if as_json:
        typer.echo(json.dumps({**measured, **figures}))
    else:
        typer.echo(f"{measured['problems']} problems of {measured['data']}, {settings.evaluation.samples} answers to each")
        for key, value in figures.items():
            typer.echo(f"{key:<24} {value:.4f}")


@app.command()
def score(
    file: Annotated[Path, typer.Argument(help="JSONL, JSON or Parquet with columns completion (or response), answer (or gold), prompt.")],
    *,
    reward: Annotated[
        list[str],
        typer.Option(help="math, choice, format, language, length, repetition, judge, or my_rewards.py:function; several add up."),
    ],
    out: Annotated[Path | None, typer.Option(help="Write every row with reward, parts, extracted, gold and why added.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Calls at a time; the number of cores if left out.")] = None,
    format_mode: Annotated[str, typer.Option(help="strict, think_only, optional or cold_start.")] = "strict",
    max_length: Annotated[int, typer.Option(help="Where the length reward reaches -1.")] = 4096,
    judge_url: Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint, for example http://127.0.0.1:8000/v1.")] = None,
    judge_model: Annotated[str | None, typer.Option(help="The model to ask there.")] = None,
    judge_key_env: Annotated[str | None, typer.Option(help="The environment variable that holds its key.")] = None,
    limit_s: Annotated[float, typer.Option(help="Seconds one call of a function of yours may take.")] = 10.0,
    as_json: Json = False,
) -> None:
    """Grade a file of completions with the rewards of training."""
    from zero2r1.panel import progress
    from zero2r1.pipeline.score import named_rewards, score_file, summary_lines

    functions = named_rewards(
        reward,
        format_mode=format_mode,
        max_length=max_length,
        judge_url=judge_url,
        judge_model=judge_model,
        judge_key_env=judge_key_env,
        limit_s=limit_s,
        workers=workers,
    )
    with progress(f"scoring {file.name}", shown=not as_json) as on_progress:
        scores = score_file(file, functions, out=out, workers=workers, on_progress=on_progress)
    if as_json:
        typer.echo(json.dumps({"rows": len(scores.rows), "mean": scores.mean, "parts": dict(scores.parts), "ungraded": scores.ungraded}))
    else:
        for line in summary_lines(scores, out):
            typer.echo(line)


@app.command()
def show(
    run: Path,
    step: Annotated[int | None, typer.Option(help="Show completions of this step.")] = None,
    count: Annotated[int, typer.Option(help="How many completions.")] = 5,
    as_json: Json = False,
) -> None:
    """What a run did: its last figures, or completions of a step with their rewards."""
    from zero2r1.rewards.probes import printable
    from zero2r1.run_dir import RunDir

    opened = RunDir.open(run)
    stages = sorted(path.parent for path in opened.path.glob("stages/*/metrics.jsonl"))
    if stages and not opened.metrics():
        raise ValueError(f"{run} is a run of several stages; show one of them:\n" + "\n".join(f"  zero2r1 show {path}" for path in stages))
    rows = opened.metrics()[-1:] if step is None else opened.rollouts(step)[:count]
    if as_json:
        typer.echo("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
        return
    for row in rows:
        for key, value in row.items():
            typer.echo("\n".join(printable(line) for line in f"{key:<44} {value}".split("\n")))
        typer.echo("")


Of = Annotated[str, typer.Option(help="Whose settings: zero, sft, rl, rm, sample, distill or pipeline.")]


def _known(of: str) -> Any:
    """The settings model of a command."""
    from zero2r1.pipeline import config as single
    from zero2r1.pipeline.distill_config import DistillSettings
    from zero2r1.pipeline.recipe import PipelineSettings
    from zero2r1.pipeline.reward_config import RewardModelRunSettings

    models = {
        "zero": single.ZeroSettings, "sft": single.SftStageSettings, "rl": single.RlSettings, "rm": RewardModelRunSettings,
        "sample": single.SampleRunSettings, "distill": DistillSettings, "pipeline": PipelineSettings,
    }  # fmt: skip
    if of not in models:
        raise ValueError(f"--of {of} is not known; choose one of {', '.join(models)}")
    return models[of]


@config.command("show", context_settings=SETTINGS)
def config_show(context: typer.Context, of: Of = "zero", files: Files = None, algorithm: Algorithm = None) -> None:
    """The complete settings of a command, each with its source."""
    from zero2r1.config import dump

    typer.echo(dump(settings_of(_known(of), context, files or [], bundles=bundle(algorithm))), nl=False)


@config.command("schema")
def config_schema(of: Of = "zero") -> None:
    """The settings as a JSON schema, for editors."""
    typer.echo(json.dumps(_known(of).model_json_schema(), indent=1))


@config.command("diff")
def config_diff(first: Path, second: Path) -> None:
    """What differs between two settings files, or the config.yaml of two runs."""
    from zero2r1.config import diff, read_yaml

    for line in diff(read_yaml(first).values, read_yaml(second).values):
        typer.echo(line)


def main() -> None:
    """Entry point: errors of the user are one message, errors of ours a traceback."""
    process.prepare()
    try:
        app()
    except ValueError as error:
        if os.environ.get("ZERO2R1_TRACEBACK"):
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(EXIT_CONFIG)

"""The command line: parse, wire, call. Heavy libraries load inside the commands, so that help and errors are instant."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from zero2r1 import process


class CheckGroup(typer.core.TyperGroup):
    """`check --model=...` checks a run; `check data FILE` and `check reward FILE:FUNCTION` look at one part."""

    def parse_args(self, context: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["run", *args]
        return super().parse_args(context, args)


app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="The DeepSeek-R1 system: train a reasoning model."
)
train = typer.Typer(no_args_is_help=True, help="Train one stage.")
config = typer.Typer(no_args_is_help=True, help="Look at settings.")
app.add_typer(train, name="train")
check = typer.Typer(cls=CheckGroup, no_args_is_help=False, help="Look before training: the run itself, a data set, or a reward function.")
app.add_typer(check, name="check")
app.add_typer(config, name="config")

SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}
Files = Annotated[list[Path] | None, typer.Option("--config", help="YAML file of settings; several are merged left to right.")]
Runs = Annotated[Path, typer.Option(help="Where run folders go.")]
Name = Annotated[str | None, typer.Option(help="Name of the run folder; the same name again continues that run.")]
Algorithm = Annotated[str | None, typer.Option(help="r1 (the paper) or modern.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
EXIT_CONFIG, EXIT_GUARD = 2, 5
MAY_CHANGE = (
    "steps", "evaluate_every", "checkpoint_every", "keep_checkpoints", "threads", "track", "rollout.token_budget", "rollout.max_rows",
    "compute.tokens_per_micro_batch", "compute.gradient_checkpointing", "compute.onednn",
)  # fmt: skip
"""What a resumed run may set anew: nothing that changes what is learnt or how it is measured."""


@app.command(context_settings=SETTINGS)
def demo(
    context: typer.Context,
    minutes: Annotated[int, typer.Option(help="9: the whole story. 3: the same path, too short to judge.")] = 9,
    runs: Runs = Path("runs"),
    name: Name = None,
) -> None:
    """Train a base model and R1-Zero on this machine, without GPU, account or download. Further settings as --a.b=c."""
    console = _greet("demo")
    from zero2r1.pipeline.demo import SHORT, recipe_files, run_demo

    if minutes not in (3, 9):
        raise ValueError(f"--minutes {minutes}: the demo comes in two lengths, 3 and 9")
    presets = [("--minutes 3", SHORT)] if minutes == 3 else []
    resolved = _settings(context, recipe_files("zero"), presets=presets, presets_last=True)
    run, text = _run(runs, name, "demo", resolved, console)
    _guarded(run, lambda stop: run_demo(resolved.settings, run, console=console, judged=minutes == 9, should_stop=stop), text)


@train.command("base", context_settings=SETTINGS)
def train_base(context: typer.Context) -> None:
    """Train the laptop world's base model from nothing, or find it in the cache."""
    console = _greet("train base")
    from zero2r1.panel import Panel
    from zero2r1.pipeline.laptop import base_model_folder

    settings = _settings(context, []).settings
    with Panel("base", settings.base.steps, console=console, plain_every=50) as panel:
        folder, cached = base_model_folder(
            settings.base,
            seed=settings.seed if settings.base.seed is None else settings.base.seed,
            on_step=lambda r: panel.show(r.step, {"pretraining_loss": r.loss, "tokens_per_s": r.tokens_per_s}),
        )
    console.print(f"{'found' if cached else 'trained'}: {folder}", highlight=False)


@train.command("zero", context_settings=SETTINGS)
def train_zero_command(
    context: typer.Context, files: Files = None, algorithm: Algorithm = None, runs: Runs = Path("runs"), name: Name = None
) -> None:
    """R1-Zero on any model and data: --model FOLDER --data.train FILE.jsonl --data.held_out FILE.jsonl, settings as --a.b=c."""
    console = _greet("train zero")
    from zero2r1.pipeline.api import run_stage

    resolved = _settings(context, files or [], presets=_bundle(algorithm))
    run, text = _run(runs, name, "zero", resolved, console)
    _guarded(run, lambda stop: run_stage(resolved.settings, run, console=console, should_stop=stop), text)


@app.command("eval", context_settings=SETTINGS)
def evaluate(context: typer.Context, files: Files = None, as_json: Json = False) -> None:
    """Measure a model on held-out problems: --model FOLDER --data.held_out FILE.jsonl."""
    from zero2r1.pipeline.api import load_stage

    settings = _settings(context, files or []).settings
    _threads(settings.threads)
    stage = load_stage(settings, say=lambda line: typer.echo(line, err=True))
    figures = stage.measure("eval").figures()
    measured = {"data": stage.world.name, "problems": min(len(stage.world.held_out), settings.evaluation.problems)}
    if as_json:
        typer.echo(json.dumps({**measured, **figures}))
    else:
        typer.echo(f"{measured['problems']} problems of {measured['data']}, {settings.evaluation.samples} answers to each")
        for key, value in figures.items():
            typer.echo(f"{key:<24} {value:.4f}")


@check.command("run", context_settings=SETTINGS)
def check_run(context: typer.Context, files: Files = None, algorithm: Algorithm = None) -> None:
    """Check model, data and rewards without training: one prompt as tokens, stop ids, the reward on four answers."""
    from zero2r1.pipeline.api import load_stage
    from zero2r1.pipeline.preflight import preflight

    settings = _settings(context, files or [], presets=_bundle(algorithm)).settings
    result = preflight(load_stage(settings, say=lambda line: typer.echo(line, err=True)), settings)
    for line in result.lines:
        typer.echo(line)
    for fault in result.faults:
        typer.echo(f"FAULT     {fault}")
    if result.faults:
        raise typer.Exit(EXIT_CONFIG)


@check.command("data")
def check_data(file: Path, as_json: Json = False) -> None:
    """Grade every reference answer of a data set against itself, and list those that cannot be graded."""
    from zero2r1.pipeline.score import check_references

    report = check_references(file)
    if as_json:
        faults = [dict(zip(("id", "gold", "why"), fault, strict=True)) for fault in report.unreadable]
        typer.echo(json.dumps({"rows": report.rows, "unreadable": faults}))
    else:
        for place, gold, why in report.unreadable:
            typer.echo(f"{place}: {gold[:80]!r}: {why}")
        typer.echo(f"{report.rows - len(report.unreadable)} of {report.rows} references of {file} can be graded")
    if report.unreadable:
        raise typer.Exit(1)


@check.command("reward")
def check_reward(
    function: Annotated[str, typer.Argument(help="my_rewards.py:function, or package.module:function")],
    limit_s: Annotated[float, typer.Option(help="Seconds one call may take before its process is ended.")] = 10.0,
) -> None:
    """Run a reward function of yours on probes, in a process of its own: right, wrong, empty, truncated and hostile completions."""
    from zero2r1.rewards.probes import probe_reward

    report = probe_reward(function, limit_s=limit_s)
    for line in report.lines:
        typer.echo(line)
    if report.faults:
        raise typer.Exit(1)


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
    format_mode: Annotated[str, typer.Option(help="strict, think_only or cold_start.")] = "strict",
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
    rows = opened.metrics()[-1:] if step is None else opened.rollouts(step)[:count]
    if as_json:
        typer.echo("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
        return
    for row in rows:
        for key, value in row.items():
            typer.echo("\n".join(printable(line) for line in f"{key:<44} {value}".split("\n")))
        typer.echo("")


@config.command("show", context_settings=SETTINGS)
def config_show(context: typer.Context, files: Files = None, algorithm: Algorithm = None) -> None:
    """The complete settings of `train zero`, each with its source."""
    from zero2r1.config import dump

    typer.echo(dump(_settings(context, files or [], presets=_bundle(algorithm))), nl=False)


@config.command("schema")
def config_schema() -> None:
    """The settings as a JSON schema, for editors."""
    from zero2r1.pipeline.config import ZeroSettings

    typer.echo(json.dumps(ZeroSettings.model_json_schema(), indent=1))


@config.command("diff")
def config_diff(first: Path, second: Path) -> None:
    """What differs between two settings files, or the config.yaml of two runs."""
    from zero2r1.config import diff, read_yaml

    for line in diff(read_yaml(first).values, read_yaml(second).values):
        typer.echo(line)


def _greet(command: str) -> Any:
    """The first line, before anything heavy loads."""
    from zero2r1 import __version__
    from zero2r1.panel import make_console

    console = make_console()
    console.print(
        f"zero2r1 {__version__} · {command} · Python {sys.version.split()[0]} · {os.cpu_count()} cores · loading torch ...",
        highlight=False,
    )
    return console


def _settings(
    context: typer.Context,
    files: list[Path],
    *,
    presets: Sequence[tuple[str, Mapping[str, Any]]] | None = None,
    presets_last: bool = False,
) -> Any:
    from zero2r1.config import load_settings
    from zero2r1.pipeline.config import ZeroSettings

    if presets_last and presets:
        from zero2r1.config import read_yaml

        presets = [*((str(path), read_yaml(path).values) for path in files), *presets]
        files = []
    return load_settings(ZeroSettings, files=files, flags=context.args, environ=os.environ, presets=presets or [])


def _bundle(algorithm: str | None) -> list[tuple[str, Mapping[str, Any]]]:
    from zero2r1.grpo.config import ALGORITHMS

    if algorithm is None:
        return []
    if algorithm not in ALGORITHMS:
        raise ValueError(f"--algorithm {algorithm} is not known; choose one of {', '.join(ALGORITHMS)}")
    return [(f"--algorithm {algorithm}", ALGORITHMS[algorithm])]


def _run(runs: Path, name: str | None, kind: str, resolved: Any, console: Any) -> tuple[Any, str]:
    """The run folder, and the command that continues it."""
    from zero2r1.config import ConfigError, diff, dump, read_yaml
    from zero2r1.run_dir import RunDir

    _threads(resolved.settings.threads)
    text = dump(resolved)
    if name is None:
        run = RunDir.create(runs, kind, command=sys.argv, config=text, seed=resolved.settings.seed)
    else:
        known = runs / name / "config.yaml"
        if known.exists():
            fixed = read_yaml(known).values
            found = diff(fixed, json.loads(resolved.settings.model_dump_json()))
            changed = [line for line in found if not line.startswith(MAY_CHANGE)]
            if changed:
                raise ConfigError(
                    f"E002 resume: {runs / name} was started with other settings:\n  "
                    + "\n  ".join(changed)
                    + "\nDrop these flags to continue it, or give the new run another --name."
                )
        run = RunDir.start(runs / name, command=sys.argv, config=text, seed=resolved.settings.seed)
    program = os.path.relpath(sys.argv[0]) if Path(sys.argv[0]).is_relative_to(Path.cwd()) else "zero2r1"
    resume = shlex.join([program, *sys.argv[1:], *([] if name else ["--name", run.path.name])])
    console.print(f"run folder {run.path}; to continue it after a stop:  {resume}", highlight=False, markup=False, soft_wrap=True)
    return run, resume


def _threads(count: int | None) -> None:
    if count is not None:
        import torch

        torch.set_num_threads(count)


def _guarded(run: Any, work: Callable[[Callable[[], bool]], Any], resume: str) -> None:
    """Run a stage: the first Ctrl-C finishes the step, saves and stops; a second one ends at once."""
    from zero2r1.training.loop import Outcome, TrainingHalted

    asked: list[int] = []

    def on_signal(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        typer.echo("finishing this step, saving, then stopping (again to stop now)", err=True)

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        result = work(lambda: bool(asked))
    except TrainingHalted as halted:
        run.close("failed", str(halted))
        typer.echo(str(halted), err=True)
        raise typer.Exit(EXIT_GUARD) from halted
    except BaseException as error:
        run.close("failed", f"{type(error).__name__}: {error}")
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    run.close("done" if result.outcome is Outcome.DONE else "stopped")
    if result.outcome is Outcome.STOPPED:
        typer.echo(f"saved. Continue with:  {resume}", err=True)
        raise typer.Exit(128 + asked[0])


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

"""`zero2r1 check ...`: look before training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from zero2r1.cli.settings import EXIT_CONFIG, SETTINGS, Algorithm, Files, Json, RunByDefault, bundle, set_threads, settings_of

# `check --model=...` checks a run; `check data FILE` and `check reward FILE:FUNCTION` look at one part.
check = typer.Typer(cls=RunByDefault, no_args_is_help=False, help="Look before training: the run itself, a data set, or a reward function.")


@check.command("run", context_settings=SETTINGS)
def check_run(context: typer.Context, files: Files = None, algorithm: Algorithm = None) -> None:
    """Check model, data and rewards without training: one prompt as tokens, stop ids, the reward on four answers."""
    from zero2r1.pipeline.api import load_stage
    from zero2r1.pipeline.config import ZeroSettings
    from zero2r1.pipeline.preflight import preflight

    settings = settings_of(ZeroSettings, context, files or [], bundles=bundle(algorithm)).settings
    set_threads(settings.threads)
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

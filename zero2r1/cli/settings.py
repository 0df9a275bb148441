"""What all commands share: option types, settings from files and flags, run folders, and stopping in good order."""

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

SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}
Files = Annotated[list[Path] | None, typer.Option("--config", help="YAML file of settings; several are merged left to right.")]
Runs = Annotated[Path, typer.Option(help="Where run folders go.")]
Name = Annotated[str | None, typer.Option(help="Name of the run folder; the same name again continues that run.")]
ALGORITHM_NAMES = "r1 (the paper), modern, dr_grpo, dapo, gspo, cispo, rloo, reinforce_pp_baseline"
Algorithm = Annotated[str | None, typer.Option(help=f"The objective, over what files say: {ALGORITHM_NAMES}.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
EXIT_CONFIG, EXIT_GUARD = 2, 5
MAY_CHANGE = (
    "steps", "evaluate_every", "checkpoint_every", "keep_checkpoints", "threads", "track", "rollout.token_budget", "rollout.max_rows",
    "compute.tokens_per_micro_batch", "compute.gradient_checkpointing", "compute.onednn", "compute.offload",
)  # fmt: skip
"""What a resumed run may set anew: nothing that changes what is learnt or how it is measured."""


class RunByDefault(typer.core.TyperGroup):
    """A group whose command `run` is meant where none is named: `check --model=...` is `check run --model=...`."""

    def parse_args(self, context: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["run", *args]
        return super().parse_args(context, args)


def greet(command: str) -> Any:
    """The first line, before anything heavy loads."""
    from zero2r1 import __version__
    from zero2r1.panel import make_console

    console = make_console()
    console.print(
        f"zero2r1 {__version__} · {command} · Python {sys.version.split()[0]} · {os.cpu_count()} cores · loading torch ...",
        highlight=False,
    )
    return console


def settings_of(
    model: Any,
    context: typer.Context,
    files: Sequence[Path] = (),
    *,
    presets: Sequence[tuple[str, Mapping[str, Any]]] = (),
    bundles: Sequence[tuple[str, Mapping[str, Any]]] = (),
) -> Any:
    """Settings of this command from presets, files, environment, bundles and the flags that no option of it took."""
    from zero2r1.config import load_settings

    return load_settings(model, files=files, flags=context.args, environ=os.environ, presets=presets, bundles=bundles)


def bundle(algorithm: str | None) -> list[tuple[str, Mapping[str, Any]]]:
    from zero2r1.grpo.config import ALGORITHMS

    if algorithm is None:
        return []
    if algorithm not in ALGORITHMS:
        raise ValueError(f"--algorithm {algorithm} is not known; choose one of {', '.join(ALGORITHMS)}")
    return [(f"--algorithm {algorithm}", ALGORITHMS[algorithm])]


def open_run(runs: Path, name: str | None, kind: str, resolved: Any, console: Any, *, may_change: bool = False) -> tuple[Any, str]:
    """The run folder, and the command that continues it. Settings of a run stay as they are, unless its ledger copes with changes."""
    from zero2r1.config import dump
    from zero2r1.run_dir import RunDir

    set_threads(resolved.settings.threads)
    text = dump(resolved)
    if name is None:
        run = RunDir.create(runs, kind, command=sys.argv, config=text, seed=resolved.settings.seed)
    else:
        if not may_change:
            _refuse_changes(runs / name, resolved.settings)
        run = RunDir.start(runs / name, command=sys.argv, config=text, seed=resolved.settings.seed)
        if may_change:
            run.write_text("config.yaml", text)
    program = os.path.relpath(sys.argv[0]) if Path(sys.argv[0]).is_relative_to(Path.cwd()) else "zero2r1"
    resume = shlex.join([program, *_to_go_on(sys.argv[1:]), *([] if name else ["--name", run.path.name])])
    console.print(f"run folder {run.path}; to continue it after a stop:  {resume}", highlight=False, markup=False, soft_wrap=True)
    return run, resume


def _to_go_on(arguments: Sequence[str]) -> list[str]:
    """The arguments without ``--from``: it makes stages run again, and the ledger knows which of them are still to run."""
    return [
        argument
        for before, argument in zip(("", *arguments), arguments, strict=False)
        if "--from" not in (before, argument) and not argument.startswith("--from=")
    ]


def _refuse_changes(folder: Path, settings: Any) -> None:
    from zero2r1.config import ConfigError, diff, read_yaml

    known = folder / "config.yaml"
    if not known.exists():
        return
    found = diff(read_yaml(known).values, json.loads(settings.model_dump_json()))
    changed = [line for line in found if not line.startswith(MAY_CHANGE)]
    if changed:
        raise ConfigError(
            f"E002 resume: {folder} was started with other settings:\n  "
            + "\n  ".join(changed)
            + "\nDrop these flags to continue it, or give the new run another --name."
        )


def set_threads(count: int | None) -> None:
    """Bound the threads of torch, where a number is given."""
    if count is not None:
        import torch

        torch.set_num_threads(count)


def guarded(run: Any, work: Callable[[Callable[[], bool]], Any], resume: str) -> Any:
    """Run a stage: the first Ctrl-C finishes the step, saves and stops; a second one ends at once.

    Raises:
        typer.Exit: a guard halted training (5), or the run stopped and can go on: 128 + the signal that asked for it, or 0 where
            it waits for a person.
    """
    from zero2r1.pipeline.chunks import StageStopped
    from zero2r1.training.loop import Outcome, TrainingHalted

    asked: list[int] = []

    def on_signal(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        typer.echo("finishing this step, saving, then stopping (again to stop now)", err=True)

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    why = ""
    try:
        result = work(lambda: bool(asked))
        outcome = result if isinstance(result, Outcome) else result.outcome
    except StageStopped as stopped:
        outcome, why = Outcome.STOPPED, str(stopped)
    except TrainingHalted as halted:
        run.close("failed", str(halted))
        typer.echo(str(halted), err=True)
        raise typer.Exit(EXIT_GUARD) from halted
    except BaseException as error:
        run.close("failed", f"{type(error).__name__}: {error}")
        if isinstance(error, ValueError) and run.discard_if_empty():
            typer.echo(f"nothing was recorded, so {run.path} was removed", err=True)
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if outcome is Outcome.STOPPED:
        run.close("stopped", why)
        if why:
            typer.echo(why, err=True)
        typer.echo(f"saved. Continue with:  {resume}", err=True)
        raise typer.Exit(128 + asked[0] if asked else 0)
    run.close("done")
    return result

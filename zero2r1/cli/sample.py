"""`zero2r1 sample ...`: rejection sampling, review by people, decontamination."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from zero2r1.cli.settings import SETTINGS, Files, Json, Name, RunByDefault, Runs, greet, guarded, open_run, settings_of

# `sample --model=...` samples; `sample review` and `sample decontaminate` work on files of samples.
sample = typer.Typer(cls=RunByDefault, no_args_is_help=False, help="Make training data: rejection sampling, review, decontamination.")
review = typer.Typer(no_args_is_help=True, help="Let a person edit, approve or reject samples in a text file.")
sample.add_typer(review, name="review")


@sample.command("run", context_settings=SETTINGS)
def sample_run(context: typer.Context, files: Files = None, runs: Runs = Path("runs"), name: Name = None) -> None:
    """Rejection sampling: --model FOLDER --data.train PROBLEMS.jsonl --data.held_out TEST.jsonl, settings as --a.b=c."""
    console = greet("sample")
    from zero2r1.pipeline.config import SampleRunSettings
    from zero2r1.pipeline.narration import Narrator
    from zero2r1.pipeline.single import run_sampling

    resolved = settings_of(SampleRunSettings, context, files or [])
    run, text = open_run(runs, name, "sample", resolved, console)
    guarded(run, lambda stop: run_sampling(resolved.settings, run, narrator=Narrator(console), should_stop=stop), text)


@sample.command()
def decontaminate(
    file: Annotated[Path, typer.Argument(help="Training rows: JSONL, JSON or Parquet.")],
    *,
    against: Annotated[list[Path], typer.Option(help="A file of evaluation questions; give it again for each further one.")],
    out: Annotated[Path, typer.Option(help="Where the clean rows go, as JSON lines.")],
    removed: Annotated[Path, typer.Option(help="Where the others go, each with its reason.")],
    as_json: Json = False,
) -> None:
    """Remove training rows that share ten words in a row with an evaluation question or its solution."""
    from zero2r1.panel import progress
    from zero2r1.tasks.decontamination import Decontaminator, decontaminate_file, items_of_file

    decontaminator = Decontaminator(item for path in against for item in items_of_file(path))
    with progress(f"decontaminating {file.name}", shown=not as_json) as on_progress:
        counts = decontaminate_file(file, decontaminator, kept=out, removed=removed, progress=lambda rows, gone: on_progress(rows, rows))
    if as_json:
        typer.echo(json.dumps({"rows": counts.rows, "kept": counts.kept, "removed": counts.removed, "by_source": dict(counts.by_source)}))
        return
    typer.echo(f"{counts.rows} rows against {decontaminator.items} evaluation items: {counts.kept} kept in {out}")
    typer.echo(f"{counts.removed} removed, each with its reason in {removed}: " + (_counted(counts.by_source) or "none"))
    if decontaminator.not_searched:
        typer.echo(f"{len(decontaminator.not_searched)} items are too short to look for: {', '.join(decontaminator.not_searched[:5])}")


@review.command("export")
def review_export(
    file: Annotated[Path, typer.Argument(help="A file of samples, as `sample` and the pipeline write them.")],
    out: Annotated[Path, typer.Argument(help="The text file to edit; must not be there yet.")],
) -> None:
    """Write samples into a text file: change what needs it, and write approve, edit or reject at each."""
    from zero2r1.cold_start.review import export_review
    from zero2r1.samples import read_samples

    samples = read_samples(file)
    export_review(out, samples)
    typer.echo(
        f"{len(samples)} samples to review in {out}. Then:  zero2r1 sample review import {out} {file} --reviewer NAME --out KEPT.jsonl"
    )


@review.command("import")
def review_import(
    reviewed: Annotated[Path, typer.Argument(help="The edited text file.")],
    file: Annotated[Path, typer.Argument(help="The file of samples it was made from.")],
    *,
    reviewer: Annotated[str, typer.Option(help="Your name, for the record of every sample.")],
    out: Annotated[Path, typer.Option(help="Where approved and edited samples go.")],
) -> None:
    """Read decisions and edits back. An edited sample is graded again and must still be right."""
    from zero2r1.pipeline.reviewing import import_file

    result = import_file(reviewed, file, reviewer=reviewer, out=out)
    typer.echo(f"{len(result.kept)} kept in {out}, {len(result.rejected)} rejected, {len(result.pending)} without a decision")
    for rejection in result.rejected:
        typer.echo(f"  {rejection.sample.id}: {rejection.rule}: {rejection.why}")


def _counted(counts: Any) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())

"""``report.html``, ``report.md`` and ``figures/*.svg`` of a run, from its files."""

from __future__ import annotations

from pathlib import Path

from zero2r1.report.charts import standalone
from zero2r1.report.markdown import render_markdown
from zero2r1.report.page import render_page
from zero2r1.report.read import read_run
from zero2r1.report.sections import compose
from zero2r1.run_dir import RunDir


def build_report(run: Path) -> tuple[Path, Path]:
    """Write the report of a run into its folder; each file whole or not at all, the same files in giving the same bytes out.

    Any run folder will do: a pipeline, one stage, one that was killed. A pipeline calls this after it has closed its run folder;
    before that the report says that the run is still running.

    Returns:
        The paths of ``report.html`` and ``report.md``.

    Raises:
        ValueError: there is no run at this path.
    """
    folder = RunDir.open(run)
    document = compose(read_run(run))
    for figure in document.figures:
        folder.write_text(f"figures/{figure.name}.svg", standalone(figure.wide))
    folder.write_text("report.html", render_page(document))
    folder.write_text("report.md", render_markdown(document))
    return folder.path / "report.html", folder.path / "report.md"

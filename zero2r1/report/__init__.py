"""The report of a run, read from its files alone: :func:`build_report` works for a finished run and for a killed one.

files ─▶ :mod:`read` ─▶ RunRecord ─▶ :mod:`sections` ─▶ Document ─▶ :mod:`page` (HTML), :mod:`markdown`
"""

from __future__ import annotations

from zero2r1.report.build import build_report

__all__ = ["build_report"]

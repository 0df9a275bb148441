"""What the documents name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def test_every_test_named_in_the_table_of_bugs_exists():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "correctness.md").read_text()))
    written = {name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)}
    assert len(named) > 30 and named - written == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_named_in_documents_exist(document):
    text = document.read_text()
    links = {link for link in re.findall(r"\]\(([^)#\s]+)\)", text) if "://" not in link}
    paths = set(re.findall(r"`((?:zero2r1|tests|benchmarks|recipes|examples|docs)/[\w./-]+)`", text))
    assert [link for link in links if not (document.parent / link).exists()] == []
    assert [path for path in paths if not (ROOT / path).exists()] == []

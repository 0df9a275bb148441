"""The report itself: everything asked for is in it, nothing in it runs, and any run has one."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.report.made_up_run import HOSTILE, rollout, write_json, write_ledger, write_pipeline, write_rows
from zero2r1.report import build_report
from zero2r1.report.document import Cell, Document, Section, Table
from zero2r1.report.markdown import fenced, inline, render_markdown

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Counts elements, keeps the text and every attribute, and insists that elements close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.shown: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.shown.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.shown).replace("\N{NO-BREAK SPACE}", " ")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_pipeline(tmp_path / "made-up")


def report(run: Path) -> tuple[Page, str]:
    page, markdown = build_report(run)
    return Page(page.read_text(encoding="utf-8")), markdown.read_text(encoding="utf-8")


def fences(markdown: str) -> tuple[list[str], list[str]]:
    """Lines inside and outside of fenced blocks; every block is closed."""
    inside: list[str] = []
    outside: list[str] = []
    fence = ""
    for line in markdown.split("\n"):
        if (mark := re.fullmatch(r"(`{3,})(text)?", line)) and (not fence or fence == mark[1]):
            fence = "" if fence else mark[1]
        else:
            (inside if fence else outside).append(line)
    assert fence == ""
    return inside, outside


def test_the_page_says_what_was_asked_of_it(run: Path) -> None:
    page, _ = report(run)
    for expected in (
        "DeepSeek-R1 pipeline: made-up", "size standard, seed 3, on 2 cores of Test CPU: 6 of 6 stages done",
        "Base 12.5 ± 2.0 %, R1-Zero 75.0 ± 2.0 %, Dev1 50.0 ± 2.0 %, Dev2 81.2 ± 2.0 % and Dev3 70.0 ± 2.0 %",
        "✓ holds", "+62.5 [58.1, 67.0] points", "✗ no", "6.00× [5.50, 6.50]", "R1 not measured: its stage was not run",
        "1 of 2 judged claims hold; 1 not run", "One seed.", "The model is tiny",
        "A. Accuracy and majority vote", "B. Length of answers", "C. Language consistency", "D. Readability by checkpoint",
        "Reasoning RL: accuracy by kind of problem", "Format and self-checks", "Dev2 (no language)", "pass@1: sum",
        "Cold start: from 400 sampled to 120 kept", "because of mixed_language", "rollout 1/0/1", "rollout 2/0/1", "dev3/0/0",
        "21 min 00 s", "zero2r1 pipeline --seed 3", "torch 2.13.0", "abc123", "Settings (config.yaml)", "size: standard",
    ):  # fmt: skip
        assert expected in page.text, expected


def test_the_page_is_one_file_that_runs_and_requests_nothing(run: Path) -> None:
    page, _ = report(run)
    assert not {"script", "img", "link", "iframe", "object", "use", "image", "form"} & set(page.tags)
    assert not {"src", "href", "xlink:href", "style"} & page.attributes
    assert not [name for name in page.attributes if name.startswith("on")]
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "url(" not in text and "@import" not in text and "http://" not in text and "https://" not in text
    assert "default-src 'none'" in text and "prefers-color-scheme:dark" in text
    assert page.tags["svg"] == 2 * page.tags["figure"]  # every chart for a wide page and for a phone


def test_what_a_model_wrote_is_shown_and_does_nothing(run: Path) -> None:
    page, markdown = report(run)
    visible = HOSTILE.replace("\x00", "\ufffd").replace("\u202e", "\ufffd")
    assert page.text.count(visible) == 3  # one transcript, one refused sample in each of two stages
    inside, outside = fences(markdown)  # its three backticks stand inside of fences of four
    assert "# not a heading | `x` \ufffd\ufffd &amp;" in inside
    assert not [line for line in outside if "alert" in line or "not a heading" in line]


def test_hostile_names_of_runs_domains_and_claims_are_text_too(run: Path) -> None:
    write_json(run / "verdict.json", [{"claim": HOSTILE, "says": HOSTILE, "holds": False, "measured": [{"of": HOSTILE, "estimate": "x"}]}])
    write_json(run / "distrust.json", [HOSTILE])
    ledger = {"stages": [{"name": HOSTILE, "title": HOSTILE, "folder": "stages/04-reasoning-rl", "status": HOSTILE, "why": HOSTILE}]}
    write_json(run / "ledger.json", ledger)
    page, markdown = report(run)
    assert not {"script", "img"} & set(page.tags)
    assert not [line for line in fences(markdown)[1] if "<script" in line or "<img" in line]
    assert list((run / "figures").glob("*.svg"))


def test_the_ablation_stands_beside_its_stage_and_is_no_stage_of_the_story(run: Path) -> None:
    build_report(run)
    shown = {
        name: [text.text for text in ElementTree.fromstring((run / f"figures/{name}.svg").read_bytes()).iter() if text.text]
        for name in ("accuracy", "language")
    }
    assert "Dev2 (no language)" in shown["language"] and "Dev2 (no language)" not in shown["accuracy"]
    assert not [text for texts in shown.values() for text in texts if "without the language" in text]


def test_the_same_files_give_the_same_bytes(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "again" / "made-up"
    shutil.copytree(run, copy)
    for folder in (run, copy):
        build_report(folder)
        build_report(folder)  # a report that is already there changes nothing
    for name in ("report.html", "report.md", "figures/accuracy.svg"):
        assert (run / name).read_bytes() == (copy / name).read_bytes()


def test_figures_of_the_markdown_are_files_and_its_tables_have_one_width(run: Path) -> None:
    _, markdown = report(run)
    names = re.findall(r"\]\((figures/[\w]+\.svg)\)", markdown)
    assert len(names) == len(set(names)) and set(names) == {p.relative_to(run).as_posix() for p in run.glob("figures/*.svg")}
    for name in names:
        ElementTree.fromstring((run / name).read_bytes())
    tables = re.findall(r"(?:^\|.*\n)+", markdown, flags=re.MULTILINE)
    assert len(tables) >= 5
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_a_killed_run_says_where_it_ended(run: Path) -> None:
    write_json(run / "run.json", {"status": "running", "reason": "", "pid": 0})
    write_json(run / "run.lock", {"pid": 0, "host": platform.node()})
    write_ledger(run, reasoning_rl="running", no_language="not run", rejection_sft="waiting")
    for late in ("verdict.json", "stages/04-reasoning-rl/evals/dev2.json"):
        (run / late).unlink()
    shutil.rmtree(run / "stages/06-rejection-sft")
    with (run / "stages/04-reasoning-rl/metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "rew')
    page, markdown = report(run)
    assert "Killed in stage 4 (Reasoning RL), after step 6 of 6" in page.text and "Killed in stage 4" in markdown
    assert "No claim was judged" in page.text and "The run did not finish" in page.text


def test_a_stopped_run_gives_its_reason(run: Path) -> None:
    zero = run / "stages/02-zero"
    write_json(zero / "run.json", {"status": "stopped", "reason": "50 steps without signal", "pid": 1})
    page, _ = report(zero)
    assert "Stopped, after step 6 of 6. 50 steps without signal" in page.text and "R1-Zero: 02-zero" in page.text


def test_a_control_says_that_it_is_one(run: Path) -> None:
    zero = run / "stages/02-zero"
    (zero / "config.yaml").write_text("steps: 6\nshuffle_rewards: true  # flag\n", encoding="utf-8")
    page, _ = report(zero)
    assert "A control: shuffle rewards is on" in page.text


def test_no_file_but_run_json_is_needed_and_a_spoilt_one_is_named(run: Path, tmp_path: Path) -> None:
    for later in ("04-reasoning-rl", "05-no-language", "06-rejection-sft"):  # of the same kinds as those before them
        shutil.rmtree(run / "stages" / later)
    files = [path.relative_to(run) for path in sorted(run.rglob("*")) if path.is_file()]
    assert len(files) == 29
    for i, name in enumerate(files):
        copy = tmp_path / f"copy{i}"
        shutil.copytree(run, copy)
        (copy / name).write_bytes(b'\xff{"half')
        page, _ = report(copy)
        if name.suffix in (".json", ".parquet") and (name.name != "run.json" or name.parent == Path()):
            assert f"Could not be read: {name.as_posix()}" in page.text
        shutil.rmtree(copy)
    bare = tmp_path / "bare"
    write_json(bare / "run.json", {"status": "failed", "reason": "no disk", "pid": 1})
    page, _ = report(bare)
    assert "Failed, before its first step. no disk" in page.text


def test_what_is_no_run_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no run folder"):
        build_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_long_texts_do_not_make_a_large_page(run: Path) -> None:
    rows = [rollout(1, 0, 0, accuracy=1.0, reward=1.0, self_check=1.0, completion="word " * 400_000)]
    write_rows(run / "stages/02-zero/rollouts/step_000001.parquet", rows)
    (run / "config.yaml").write_text("# a comment\n" * 100_000, encoding="utf-8")
    page, _ = report(run)
    assert (run / "report.html").stat().st_size < 400_000
    assert "[... 1,994,000 more characters]" in page.text  # 2,000,000 characters, of which 6,000 are shown


def test_the_report_needs_neither_torch_nor_matplotlib(run: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from zero2r1.report import build_report; build_report(Path(sys.argv[1]));"
        "print(sorted({'torch', 'transformers', 'matplotlib', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_a_fence_is_longer_than_any_run_of_backticks_in_the_text() -> None:
    assert fenced("plain").startswith("```text\n")
    assert fenced("a ```` b").startswith("`````text\n")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("1. one", "1\\. one"), ("38.0 s", "38.0 s"), ("# x", "\\# x"), ("a | b", "a \\| b"), ("<b>", "&lt;b&gt;"), ("pass@1", "pass@1"),
        ("ask @someone", "ask &#64;someone"), ("two\nlines", "two lines"), ("a_b *c*", "a\\_b \\*c\\*"),
    ],
)  # fmt: skip
def test_inline_text_means_nothing_to_markdown(text: str, written: str) -> None:
    assert inline(text) == written


def test_a_line_that_stands_out_is_bold_in_markdown() -> None:
    table = Table(columns=("a",), rows=((Cell(text="one\ntwo", strong=frozenset({0})),),), prose=True)
    text = render_markdown(Document(title="t", status="s", look="", lead=(), sections=(Section(title="x", blocks=(table,)),)))
    assert "| **one**<br>two |" in text


def test_a_control_that_was_not_run_has_no_curve(run: Path) -> None:
    """It shares its start with the stage it controls; once, that point alone was drawn and labelled."""
    shown = (build_report(run)[0].parent / "figures" / "language.svg").read_text(encoding="utf-8")
    assert "no language" in shown
    for file in run.glob("stages/*/evals/dev2_no_language.*"):
        file.unlink()
    shown = (build_report(run)[0].parent / "figures" / "language.svg").read_text(encoding="utf-8")
    assert "no language" not in shown

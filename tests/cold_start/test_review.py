"""Review by people: what they see, what they may do, and what is said when the file is broken."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zero2r1.cold_start.review import Reviewed, export_review, import_review
from zero2r1.samples import Lineage, Rejection, Sample
from zero2r1.types import Problem

TOKEN = "|special_token|"


def sample(number=1, *, name=None, thinking="I add 7 and 5.", summary=r"It is \boxed{12}.", question="What is 7 + 5?", answer="12"):
    problem = Problem(
        id=f"p/{number}",
        prompt=question,
        answer=answer,
        verifier="math",
        domain="math",
        language="en",
        source="s",
        licence="MIT",
        split="train",
    )
    return Sample(
        id=name or f"p/{number}#direct",
        problem=problem,
        thinking=thinking,
        summary=summary,
        lineage=Lineage(source="direct:r1"),
        measured={"accuracy": 1.0, "repetition": 0.1},
    )


def right(one):
    return r"\boxed{12}" in one.summary


def decide(path, *decisions):
    """Write decisions behind the empty ones, in order, as a person would."""
    words = iter(decisions)
    text = path.read_bytes().decode()
    path.write_bytes(re.sub(r"^decision:$", lambda _: f"decision: {next(words)}", text, flags=re.MULTILINE).encode())


def change(path, old, new, *, count=1):
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new, count).encode())


def run(path, samples, **how):
    return import_review(path, samples, reviewer="alice", **({"still_right": right} | how))


def test_the_file_shows_a_person_everything(tmp_path):
    path = tmp_path / "deep" / "review.md"
    export_review(path, [sample(1), sample(2, answer=None)])
    text = path.read_text()
    mark = re.search(r"^mark: (.*)$", text, re.MULTILINE).group(1)
    block = text[text.index(f"{mark} sample 1 of 2") : text.index(f"{mark} sample 2 of 2")]
    version = re.search(r"version: ([0-9a-f]{12})\n", block).group(1)
    assert block == (
        f"{mark} sample 1 of 2\nid: p/1#direct\nversion: {version}\ndecision:\nreason:\n{mark} question (only to read)\nWhat is 7 + 5?\n"
        f"{mark} gold answer (only to read)\n12\n{mark} response (edit here)\n|special_token|\nI add 7 and 5.\n|special_token|\n"
        f"It is \\boxed{{12}}.\n{mark} end\n\n"
    )
    assert "(there is none)" in text and "approve, edit or reject" in text.split(mark)[0]
    with pytest.raises(ValueError, match="may hold somebody's work"):
        export_review(path, [sample(1)])
    assert path.read_text() == text


def test_every_sample_is_kept_rejected_or_pending(tmp_path):
    samples = [sample(number) for number in range(1, 7)]
    path = tmp_path / "review.md"
    export_review(path, samples)
    decide(path, "approve", "edit", "Reject", "", "approve", "edit")
    text = path.read_text()
    parts = re.split(r"(?======\[[0-9a-f]{16}\]===== sample)", text)
    parts[1] = parts[1].replace("reason:", "reason: fine")
    parts[2] = parts[2].replace("It is ", "I find that it is ")
    parts[3] = parts[3].replace("reason:", "reason: dull: it\n  rambles")
    parts[5] = parts[5].replace("I add 7 and 5.", "I want 7 and 5.\n\nI add them.")
    parts[6] = parts[6].replace("boxed{12}", "boxed{13}")
    path.write_text("".join(parts))
    review = run(path, samples)
    assert [one.id for one in review.kept] == ["p/1#direct", "p/2#direct", "p/5#direct"]
    assert [one.lineage.steps for one in review.kept] == [("approved by alice: fine",), ("edited by alice",), ("edited by alice",)]
    assert (review.kept[1].thinking, review.kept[1].summary) == ("I add 7 and 5.", r"I find that it is \boxed{12}.")
    assert (review.kept[2].thinking, review.kept[2].summary) == ("I want 7 and 5.\n\nI add them.", r"It is \boxed{12}.")
    assert review.kept[0].measured == samples[0].measured and review.kept[1].measured == {"accuracy": 1.0}
    assert [(r.rule, r.why, r.sample.lineage.steps) for r in review.rejected] == [
        ("reviewer", "dull: it rambles", ("rejected by alice",)),
        ("changed_by_editing", "edited by alice: its final answer is no longer right", ("edited by alice",)),
    ]
    assert review.rejected[0].sample.summary == samples[2].summary
    assert review.pending == (samples[3],)
    assert run(path, samples) == review, "importing twice gives the same"


def test_an_unfinished_edit_waits_in_the_file(tmp_path):
    path = tmp_path / "review.md"
    export_review(path, [sample()])
    change(path, "I add 7", f"I {TOKEN} add 7")
    assert run(path, [sample()]).pending == (sample(),)


ANY_TEXT = st.text(
    st.one_of(st.characters(), st.sampled_from([*"\r\n\u2028\u0085\x0c\x00\ufeff =|[]:#", "\ud800"])), max_size=30
) | st.sampled_from([TOKEN, "|special_token", "=====[0123456789abcdef]===== end", "decision: reject", "mark: x", "\r\n", "id: p"])
TEXTS = st.lists(ANY_TEXT, max_size=4).map("".join)


@given(texts=st.lists(st.tuples(TEXTS, TEXTS.filter(bool), st.none() | TEXTS, TEXTS), min_size=1, max_size=3), windows=st.booleans())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_without_edits_any_text_comes_back_as_it_was(tmp_path, texts, windows):
    path = tmp_path / "review.md"
    path.unlink(missing_ok=True)
    samples = [
        sample(number, name=f"{number}{name}", question=question, thinking=thinking, summary=summary)
        for number, (question, name, thinking, summary) in enumerate(texts)
    ]
    export_review(path, samples)
    decide(path, *["approve"] * path.read_bytes().count(b"decision:\n"))
    if windows:  # an editor that writes CRLF, a BOM, and no white space at the ends of lines
        plain = path.read_bytes().decode().replace("\r\n", "\n").replace("\r", "\n")
        path.write_bytes("\r\n".join(line.rstrip() for line in plain.split("\n")).encode("utf-8-sig"))
    review = run(path, samples, still_right=None)
    assert [dataclasses.replace(one, lineage=samples[0].lineage) for one in review.kept] == samples
    assert review.rejected == review.pending == ()


def test_text_that_holds_the_separator_gets_another_one(tmp_path):
    samples = [sample(1, thinking=f"The token {TOKEN} again {TOKEN}."), sample(2)]
    path = tmp_path / "review.md"
    export_review(path, samples)
    token = re.search(r"^separator: (.*)$", path.read_text(), re.MULTILINE).group(1)
    assert re.fullmatch(r"\|special_token_[0-9a-f]{16}\|", token) and path.read_text().count(token) == 1 + 4
    decide(path, "approve", "approve")
    change(path, "The token", "I see the token")
    kept = run(path, samples).kept
    assert kept[0].thinking == f"I see the token {TOKEN} again {TOKEN}." and kept[1].thinking == samples[1].thinking


def test_an_edit_of_one_part_leaves_the_other_to_the_last_blank(tmp_path):
    given = sample(thinking="  I add.\n\n", summary="It is\r\n12. ")
    path = tmp_path / "review.md"
    export_review(path, [given])
    decide(path, "edit")
    change(path, "I add.", "I add them.")
    (kept,) = run(path, [given], still_right=lambda _: True).kept
    assert (kept.thinking, kept.summary) == ("I add them.", "It is\r\n12. ")


def test_a_response_without_thinking_can_be_edited(tmp_path):
    given = sample(thinking=None, summary="Hello")
    path = tmp_path / "review.md"
    export_review(path, [given])
    decide(path, "approve")
    change(path, "\nHello\n", "\nHello!\n")
    (kept,) = run(path, [given], still_right=lambda _: True).kept
    assert (kept.thinking, kept.summary) == (None, "Hello!")


# The first block of two: 13 sample, 14 id, 15 version, 16 decision, 17 reason, 18 question, 20 gold answer, 22 response, 27 end; 30 the
# second id.
BREAKS = {
    "a word nobody knows": (("decision:", "decision: maybe"), "line 16: 'maybe' is no decision: write approve, edit or reject, or nothing"),
    "an edit that is none": (("decision:", "decision: edit"), "line 16: 'p/1#direct' is to be edited, but its text is as it was: write"),
    "an id nobody knows": (("id: p/1", "id: p/7"), "line 14: the id 'p/7#direct' is none of the samples given: restore"),
    "an id twice": (("id: p/1", "id: p/2"), "line 30: the id 'p/2#direct' stands in line 14 already: remove one"),
    "a broken id": (("id: p/1#direct", 'id: "p/1'), 'line 14: the id "p/1 is broken: restore it'),
    "another version": (("version: ", "version: 0"), "line 15: this block shows another version of sample 'p/1#direct': give the samples"),
    "no decision": (("decision:\n", ""), "line 13: this block has lost its line 'decision:': write it again"),
    "two decisions": (
        ("decision:\n", "decision:\ndecision: reject\n"),
        "line 17: a second 'decision' in one block; the first is in line 16",
    ),
    "words without a field": (("decision:\n", "decision:\nwell\n"), "line 17: 'well' is no field: write words of your own behind"),
    "a lost separator": (
        ("decision:\nreason:", "decision: approve\nreason:", "\n|special_token|\nI add", "\nI add"),
        "line 22: the response of 'p/1#direct' has lost its layout: write |special_token| once before the thinking",
    ),
    "nothing left": (
        ("decision:\nreason:", "decision: edit\nreason:", "It is \\boxed{12}.", "..."),
        "line 22: the response of 'p/1#direct' has lost its layout: thinking and summary must both say something",
    ),
    "text between blocks": ((" end\n", " end\nhm\n"), "line 28: text between two blocks belongs to none: move it"),
    "a line of the mark": (("response (edit here)", "answer"), "line 22: this line of the mark was changed: it is the mark and then one"),
    "a section twice": (("gold answer (only", "question (only"), "line 20: a second 'question' in one block; the first is in line 18"),
    "an end lost": (("It is \\boxed{12}.\n=====", "It is \\boxed{12}. ====="), "line 26: this line of the mark was changed"),
    "a block lost": (("id: p/1#direct\n", ""), "the block of 'p/1#direct' is missing: restore it"),
}


@pytest.mark.parametrize(("edits", "message"), [pytest.param(*case, id=name) for name, case in BREAKS.items()])
def test_a_broken_file_is_said_with_the_line_and_how_to_mend_it(tmp_path, edits, message):
    samples = [sample(1), sample(2)]
    path = tmp_path / "review.md"
    export_review(path, samples)
    for old, new in zip(edits[::2], edits[1::2], strict=True):
        text = path.read_text()
        start = text.index(" sample 1 of 2")
        path.write_text(text[:start] + text[start:].replace(old, new, 1))
    with pytest.raises(ValueError, match="cannot be imported; nothing was") as caught:
        run(path, samples)
    assert message in str(caught.value), str(caught.value)


def test_all_faults_come_in_one_error_with_the_missing_blocks_last(tmp_path):
    samples = [sample(1), sample(2)]
    path = tmp_path / "review.md"
    export_review(path, samples)
    change(path, "decision:\nreason", "decision: perhaps\nreason", count=2)
    with pytest.raises(ValueError) as caught:
        run(path, [*samples, sample(3)])
    listed = str(caught.value).splitlines()[1:]
    assert len(listed) == 3 and "line 16: 'perhaps'" in listed[0] and "line 32: 'perhaps'" in listed[1]
    assert listed[2].strip().startswith("the block of 'p/3#direct' is missing: restore it")


@pytest.mark.parametrize(("old", "message"), [("mark: ", "lost its line 'mark:'"), ("separator: ", "lost its line 'separator:'")])
def test_without_its_head_a_file_cannot_be_read(tmp_path, old, message):
    path = tmp_path / "review.md"
    export_review(path, [sample()])
    change(path, old, "")
    with pytest.raises(ValueError, match=message):
        run(path, [sample()])
    path.write_bytes("mark: é".encode("latin-1"))
    with pytest.raises(ValueError, match="no UTF-8 any more"):
        run(path, [sample()])


def test_ids_must_differ_and_the_reviewer_needs_a_name(tmp_path):
    with pytest.raises(ValueError, match="may not have one id: 'p/1#direct'"):
        export_review(tmp_path / "review.md", [sample(), sample()])
    with pytest.raises(ValueError, match="needs a name"):
        import_review(tmp_path / "review.md", [], reviewer=" ", still_right=right)


def test_a_program_can_review_along_the_same_path(tmp_path):
    """It approves what is short, rejects what has no full stop, and makes the rest shorter."""

    def reviewer(one):
        if not one.thinking.endswith("."):
            return Reviewed(decision="reject", reason="no\nfull stop")
        if len(one.thinking) < 20:
            return Reviewed(decision="approve")
        return Reviewed(decision="edit", thinking="I add.")

    samples = [sample(1), sample(2, thinking="I add"), sample(3, thinking="I add 7 to 5, which is twelve.")]
    path = tmp_path / "review.md"
    export_review(path, samples, reviewer=reviewer)
    review = import_review(path, samples, reviewer="rules", still_right=right)
    assert [one.lineage.steps for one in review.kept] == [("approved by rules",), ("edited by rules",)]
    assert review.kept[1].thinking == "I add."
    assert isinstance(review.rejected[0], Rejection) and review.rejected[0].why == "no full stop"

"""Stage 1 on a toy: whatever the source, what is learnt from was graded and read, and nobody is asked for what is thrown away."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.tiny_stage import untrained
from tests.pipeline.toy_pipeline import SFT, TOY, toy_settings
from tests.rollout.stub_server import Answer, Received, StubServer, chat, refusal
from tests.test_samples import sample
from zero2r1.cold_start.gather import AskError
from zero2r1.pipeline import stage1_cold_start
from zero2r1.pipeline.chunks import StageStopped
from zero2r1.pipeline.materials import Materials, load_materials
from zero2r1.pipeline.narration import Narrator
from zero2r1.pipeline.stage1_cold_start import funnel_of, run_cold_start
from zero2r1.pipeline.stage_run import StageRun
from zero2r1.run_dir import RunDir
from zero2r1.samples import Rejection, read_samples, result_from_row, write_samples
from zero2r1.tasks.laptop.solver import solve
from zero2r1.template import write_cold_start, write_thinking
from zero2r1.types import Completion, Problem, Reward


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return untrained(tmp_path_factory.mktemp("model") / "base")


def given(base: Path, folder: Path, *, materials: Mapping[str, Any] | None = None, **section: Any) -> StageRun:
    """A stage with this section of the recipe and, of its materials, these instead of the laptop world's."""
    settings = toy_settings(base, cold_start={**TOY["cold_start"], "problems": 0, "solved": 0, "sft": {**SFT, "epochs": 1}, **section})
    return StageRun(
        run=RunDir.start(folder, command=[], config="", seed=0),
        settings=settings,
        materials=replace(load_materials(settings), **(materials or {})),
        inputs={"base": base, "zero": base},
        digests={"base": "b", "zero": "z"},
        narrator=Narrator(),
        should_stop=lambda: False,
    )


def endpoint(server: StubServer) -> dict[str, Any]:
    return {"url": server.url, "model": "teacher", "concurrency": 2, "timeout_s": 5.0}


def teacher(materials: Materials, *purposes: str, count: int = 40) -> Any:
    """Answers every problem of these purposes rightly."""
    known = {p.question: write_cold_start(*solve(p, seed=0)) for purpose in purposes for p in materials.problems(purpose, count)}

    def answer(received: Received, before: int) -> Answer:
        # The question that is asked stands behind the examples.
        return chat(known[max(known, key=lambda question: (received.said.rfind(question), len(question)))])

    return answer


def rejected(stage: StageRun) -> list[Rejection]:
    lines = (stage.run.path / "samples" / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    found = [result_from_row(json.loads(line)) for line in lines]
    assert all(isinstance(one, Rejection) for one in found)
    return [one for one in found if isinstance(one, Rejection)]


def outputs(monkeypatch: pytest.MonkeyPatch, write: Any, *, think_open: bool = False) -> list[str]:
    """R1-Zero writes ``write(problem, index)`` for index 0, 1 and 2; returns the purposes that were sampled for."""
    sampled: list[str] = []

    def sample_problems(work: Any, stage: Any, problems: Sequence[Problem], settings: Any, *, purpose: str, make: Any) -> list[Any]:
        sampled.append(purpose)
        stage.world = replace(stage.world, think_open=think_open)
        return [row for problem in problems for row in make(problem, [completion(write(problem, index)) for index in range(3)])]

    monkeypatch.setattr(stage1_cold_start, "sample_problems", sample_problems)
    return sampled


def completion(text: str) -> Completion:
    return Completion(segments=(), text=text, finish_reason="stop", seed=0, policy_version=0)


def grades(monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    """The rules of the world grade a sample by ``value(problem, text)``."""

    def grader(problems: Sequence[Problem], completions: Sequence[Completion]) -> list[Reward]:
        return [Reward(value=value(p, c.text), components={}) for p, c in zip(problems, completions, strict=True)]

    monkeypatch.setattr("zero2r1.pipeline.world.World.accuracy_grader", lambda world: grader)


@pytest.mark.parametrize("chunk", [4, 8])
def test_an_endpoint_that_is_down_is_no_answer_and_is_asked_again_later(base, tmp_path, monkeypatch, chunk):
    """In pieces of 4 or 8 there are never 32 failures in a row, and a piece that is written down is final."""
    monkeypatch.setattr("zero2r1.rollout.endpoint.FIRST_DELAY_S", 0.0001)
    wanted, up = 20, False
    section = {"direct": wanted, "sample": {**TOY["cold_start"]["sample"], "chunk": chunk}, "review": "none"}
    right = teacher(load_materials(toy_settings(base)), "direct", count=wanted)

    def script(received: Received, before: int) -> Answer:
        return right(received, before) if up else refusal(503)

    with StubServer(script) as server:
        stage = given(base, tmp_path / "stage", **section, endpoint=endpoint(server))
        with pytest.raises(AskError, match=f"{chunk} prompts in a row got no reply"):
            run_cold_start(stage)
        assert not list((stage.run.path / "samples").rglob("*.jsonl"))
        up = True
        made = run_cold_start(stage)
    assert len(read_samples(made["cold_start_samples"])) == wanted and rejected(stage) == []


def test_few_shot_without_examples_is_refused_before_anything_is_sampled(base, tmp_path, monkeypatch):
    sampled = outputs(monkeypatch, lambda problem, index: "")
    with StubServer(lambda received, before: refusal(500)) as server:
        section = {"problems": 4, "few_shot": 4, "endpoint": endpoint(server)}
        with pytest.raises(ValueError, match=r"few_shot asks about 4 problems.* set cold_start\.examples to a file"):
            run_cold_start(given(base, tmp_path / "none", materials={"solve": None}, **section))
        shown = tmp_path / "shown.jsonl"
        write_samples(shown, [sample("a#0"), sample("b#0", thinking=None)])
        with pytest.raises(ValueError, match=r"cold_start\.examples: .*shown\.jsonl: sample 'b#0' cannot be shown"):
            run_cold_start(given(base, tmp_path / "no_thinking", **section, examples=str(shown)))
        assert server.received == []
    assert sampled == []


def test_examples_are_made_once_for_all_pieces(base, tmp_path):
    purposes: list[str] = []
    materials = load_materials(toy_settings(base))

    def problems(purpose: str, count: int) -> list[Problem]:
        purposes.append(purpose)
        return materials.problems(purpose, count)

    with StubServer(teacher(materials, "few_shot")) as server:
        stage = given(base, tmp_path / "stage", materials={"problems": problems}, few_shot=12, endpoint=endpoint(server))  # three pieces
        run_cold_start(stage)
    assert purposes.count("examples") == 1


def test_outputs_that_begin_inside_the_thinking_are_read_that_way(base, tmp_path, monkeypatch):
    outputs(monkeypatch, lambda problem, index: write_thinking(*solve(problem, seed=index)).removeprefix("<think>"), think_open=True)
    stage = given(base, tmp_path / "stage", problems=4, review="none")
    kept = read_samples(run_cold_start(stage)["cold_start_samples"])
    assert len(kept) == 4 and {one.rule for one in rejected(stage)} == {"over_limit"}
    assert all(one.thinking == solve(one.problem, seed=int(one.id[-1]))[0] for one in kept)


@pytest.mark.parametrize("source", ["zero", "direct", "solver"])
def test_whatever_the_source_a_sample_is_graded_and_read(base, tmp_path, monkeypatch, source):
    """Of five problems the first cannot be graded, the second is answered wrongly, the third said over and over again."""
    materials = load_materials(toy_settings(base))
    purpose = {"zero": "cold_start"}.get(source, source)
    asked = materials.problems(purpose, 5)
    ungraded, wrong, again = (problem.id for problem in asked[:3])
    grades(monkeypatch, lambda problem, text: {ungraded: None, wrong: 0.0}.get(problem.id, 1.0))

    def solved(problem: Problem) -> tuple[str, str]:
        thinking, summary = solve(problem, seed=0)
        return (" . ".join([thinking] * 9) if problem.id == again else thinking), summary

    said = {problem.question: write_cold_start(*solved(problem)) for problem in asked}
    outputs(monkeypatch, lambda problem, index: write_thinking(*solved(problem)))
    with StubServer(lambda received, before: chat(next(text for question, text in said.items() if question in received.said))) as server:
        section: dict[str, Any] = {{"zero": "problems", "direct": "direct", "solver": "solved"}[source]: 5, "review": "none"}
        if source == "direct":
            section["endpoint"] = endpoint(server)
        stage = given(base, tmp_path / "stage", materials={"solve": solved}, **section)
        kept = read_samples(run_cold_start(stage)["cold_start_samples"])
    assert [one.problem.id for one in kept] == [problem.id for problem in asked[3:]]
    assert all(one.measured["accuracy"] == 1.0 and any(step.startswith("graded:") for step in one.lineage.steps) for one in kept)
    found = {(one.sample.problem.id, one.rule) for one in rejected(stage) if one.rule != "over_limit"}
    assert found == {(ungraded, "not_graded"), (wrong, "incorrect"), (again, "repetition")}


def test_the_endpoint_rewrites_only_what_is_kept_and_what_it_wrote_is_read_again(base, tmp_path, monkeypatch):
    """Three right outputs to each of 6 problems: one a problem and 4 in all are rewritten, of which one comes back as a loop."""
    outputs(monkeypatch, lambda problem, index: write_thinking(*solve(problem, seed=index)))
    materials = load_materials(toy_settings(base))
    right = teacher(materials, "cold_start", count=6)

    def script(received: Received, before: int) -> Answer:
        if before:
            return right(received, before)
        loop = next(problem for problem in materials.problems("cold_start", 6) if problem.question in received.said)
        return chat(write_cold_start("so it is . " * 40, solve(loop, seed=0)[1]))

    with StubServer(script) as server:
        section = {"problems": 6, "from_zero": 4, "rewrite": True, "endpoint": {**endpoint(server), "concurrency": 1}, "review": "none"}
        stage = given(base, tmp_path / "stage", **section)
        kept = read_samples(run_cold_start(stage)["cold_start_samples"])
        assert len(server.received) == 4
    assert len(kept) == 3 and all("rewritten by teacher" in one.lineage.steps for one in kept)
    rules = [one.rule for one in rejected(stage)]
    assert sorted(rules) == ["over_limit"] * 14 + ["repetition"]  # of 18 outputs 4 are rewritten


def test_a_changed_text_that_no_rule_can_grade_is_not_wrong(base, tmp_path, monkeypatch):
    """The rules can grade what R1-Zero wrote, but neither what the endpoint nor what the reviewer made of it."""
    outputs(monkeypatch, lambda problem, index: write_thinking(*solve(problem, seed=0)))
    materials = load_materials(toy_settings(base))
    grades(monkeypatch, lambda problem, text: None if "in other words" in text else 1.0)

    def script(received: Received, before: int) -> Answer:
        asked = next(problem for problem in materials.problems("cold_start", 3) if problem.question in received.said)
        thinking, summary = solve(asked, seed=0)
        return chat(write_cold_start(f"in other words , {thinking}", summary))

    with StubServer(script) as server:
        section = {"problems": 3, "rewrite": True, "endpoint": endpoint(server), "review": "wait", "reviewer": "ada"}
        stage = given(base, tmp_path / "stage", **section)
        with pytest.raises(StageStopped, match="3 of 3 samples wait"):
            run_cold_start(stage)
        path = stage.run.path / "review.md"
        text = path.read_text(encoding="utf-8").replace("in other words ,", "in other words , as ada puts it ,")
        path.write_text(text.replace("decision:", "decision: edit"), encoding="utf-8")
        kept = read_samples(run_cold_start(stage)["cold_start_samples"])
    assert len(kept) == 3 and all("edited by ada" in one.lineage.steps for one in kept)


def test_the_funnel_has_its_stations_in_the_order_in_which_samples_meet_them():
    def one(rule: str) -> Rejection:
        return Rejection(sample=sample(), rule=rule, why="")

    met = ["malformed", "not_graded", "incorrect", "mixed_language", "repetition", "over_limit", "contaminated", "reviewer"]
    found = funnel_of([sample(), replace(sample(), id="b#0")], [*map(one, reversed(met)), one("of a later version"), one("malformed")])
    assert list(found["rejected"].items()) == [("malformed", 2), *((rule, 1) for rule in met[1:]), ("of a later version", 1)]
    # 2 kept and 10 rejected; each rule takes its own away
    sizes = [12, 10, 9, 8, 7, 6, 5, 4, 3, 2, 2]
    names = ["gathered", *(f"not {rule}" for rule in [*met, "of a later version"]), "kept"]
    assert found["stations"] == list(zip(names, sizes, strict=True))
    assert found["mixed"] == {"zero": 2}

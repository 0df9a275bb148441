"""`train sft` and `sample`: what is measured and kept, what is refused, and that nothing is done or asked for twice."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipeline.tiny_stage import untrained
from tests.rollout.stub_server import Received, StubServer, answers, chat, refusal
from zero2r1.pipeline.chunks import StageStopped
from zero2r1.pipeline.config import SampleRunSettings, SftStageSettings
from zero2r1.pipeline.narration import Narrator
from zero2r1.pipeline.sampling import Work
from zero2r1.pipeline.selecting import grade_of
from zero2r1.pipeline.single import run_sampling, run_sft_stage
from zero2r1.pipeline.stage import Stage
from zero2r1.pipeline.world import World
from zero2r1.rewards.combine import RewardError
from zero2r1.rollout.openai_engine import OpenAIClient
from zero2r1.run_dir import RunDir
from zero2r1.samples import Lineage, Sample, read_samples
from zero2r1.training.loop import Outcome
from zero2r1.types import Completion, Problem, Segment


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return untrained(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    """Dialogues, problems that only a judge can grade, and held-out problems."""
    rows = {
        "dialogues": [
            {"messages": [{"role": "user", "content": f"compute {i} + 1"}, {"role": "assistant", "content": f"it is {i + 1} ."}]}
            for i in range(8)
        ],
        "train": [{"question": f"tell me about {i}", "answer": f"{i} is a number", "verifier": "judge"} for i in range(8)],
        "held_out": [{"question": f"compute {i} + 2", "answer": str(i + 2)} for i in range(2)],
    }
    for name, lines in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {name: str(tmp_path / f"{name}.jsonl") for name in rows}


def tune(model: Path, folder: Path, data: dict[str, object], should_stop: Callable[[], bool] = lambda: False, **changes: object):
    settings = SftStageSettings.model_validate(
        {
            "model": str(model), "data": data, "epochs": 1, "batch_size": 2, "max_length": 64, "checkpoint_every": 1,
            "evaluation": {"problems": 2, "samples": 1, "max_new_tokens": 4}, **changes,
        }
    )  # fmt: skip
    run = RunDir.start(folder, command=[], config="", seed=0)
    return run_sft_stage(settings, run, narrator=Narrator(), should_stop=should_stop)


@pytest.fixture
def measured(monkeypatch) -> list[tuple[str, str]]:
    """(name, layout) of every measurement that is made."""
    seen: list[tuple[str, str]] = []
    measure = Stage.measure

    def noted(stage: Stage, name: str, **more: object):
        seen.append((name, stage.world.format_mode))
        return measure(stage, name, **more)

    monkeypatch.setattr(Stage, "measure", noted)
    return seen


def test_the_measurement_before_sft_is_kept_and_made_once(model, tmp_path, files, measured):
    data = {"train": files["dialogues"], "held_out": files["held_out"]}
    polls = itertools.count()
    assert tune(model, tmp_path / "run", data, should_stop=lambda: next(polls) == 1).outcome is Outcome.STOPPED
    before = (tmp_path / "run" / "evals" / "before.json").read_bytes()
    assert json.loads(before)["figures"].keys() >= {"pass@1", "format_ok"}
    assert tune(model, tmp_path / "run", data).outcome is Outcome.DONE
    assert [name for name, _ in measured] == ["before", "after"]
    assert (tmp_path / "run" / "evals" / "before.json").read_bytes() == before
    assert sorted(file.name for file in (tmp_path / "run" / "evals").iterdir()) == [
        "after.json", "after.parquet", "before.json", "before.parquet",
    ]  # fmt: skip


@pytest.mark.parametrize("case", [(layout, held_out) for layout in ("think", "special_token") for held_out in ("laptop", "file")])
def test_sft_is_measured_by_the_layout_it_teaches(model, tmp_path, files, measured, case):
    layout, held_out = case
    data = {"train": files["dialogues"], "held_out": files["held_out"] if held_out == "file" else "laptop", "layout": layout}
    tune(model, tmp_path / "run", data)
    mode = {"think": "think_only", "special_token": "cold_start"}[layout]
    assert measured == [("before", mode), ("after", mode)]


def test_every_step_of_sft_reaches_the_tracker(model, tmp_path, files, monkeypatch):
    heard: list[int] = []
    opened: list[tuple[str, Path]] = []

    def open_tracker(kind: str, run: Path):
        opened.append((kind, run))
        return lambda row: heard.append(row["step"])

    monkeypatch.setattr("zero2r1.pipeline.single.open_tracker", open_tracker)
    tune(model, tmp_path / "run", {"train": files["dialogues"]}, track="wandb")
    assert opened == [("wandb", tmp_path / "run")]
    assert heard == [1, 2, 3, 4]  # 8 dialogues in batches of 2, once


def test_sft_does_not_go_on_with_an_edited_file(model, tmp_path, files):
    tune(model, tmp_path / "run", {"train": files["dialogues"]}, should_stop=lambda: True)
    file = Path(files["dialogues"])
    file.write_text(file.read_text().replace("it is 3 .", "it is 4 ."))
    with pytest.raises(ValueError, match="E002 resume: .* has learnt 8 examples"):
        tune(model, tmp_path / "run", {"train": files["dialogues"]})


@pytest.mark.parametrize("held_out", [None, "laptop"])
def test_columns_that_nothing_would_read_are_refused(model, tmp_path, files, held_out):
    data = {"train": files["dialogues"], "held_out": held_out, "columns": {"prompt": "q", "answer": "a"}}
    with pytest.raises(ValueError, match=r"data\.columns is .* names columns of a file of problems, data\.held_out, and there is none"):
        tune(model, tmp_path / "run", data)


RIGHT = '{"analysis": "Both say so.", "verdict": "correct"}'
WRONG = '{"analysis": "They differ.", "verdict": "incorrect"}'


@pytest.fixture
def drawn(monkeypatch) -> list[int]:
    """Answers from a script instead of a model: to each problem two that differ. Holds the number of problems of every draw."""
    pieces: list[int] = []

    def generate(engine, requests):
        pieces.append(len(requests))
        return [
            [
                Completion(
                    segments=(Segment(token_ids=(1,), logprobs=(-1.0,)),),
                    text=f"<think>\nI look at the question and count from one.\n</think>\n\nIt is number {way} of the numbers we know.",
                    finish_reason="stop", seed=seed, policy_version=0,
                )
                for way, seed in zip(("one", "two"), request.seeds, strict=True)
            ]
            for request in requests
        ]  # fmt: skip

    monkeypatch.setattr("zero2r1.pipeline.sampling.generate", generate)
    return pieces


def sampling(model: Path, folder: Path, data: dict[str, object], should_stop: Callable[[], bool] = lambda: False, **changes: object):
    settings = SampleRunSettings.model_validate(
        {"model": str(model), "data": data, "sample": {"samples": 2, "max_new_tokens": 8, "chunk": 4}, **changes}
    )
    run = RunDir.start(folder, command=[], config="", seed=0)
    return run_sampling(settings, run, narrator=Narrator(), should_stop=should_stop)


def prefers_one(received: Received, _before: int):
    """A judge who takes the first way of saying it."""
    return chat(RIGHT if "number one of" in received.said else WRONG)


def endpoint(server: StubServer, **more: object) -> dict[str, object]:
    return {"url": server.url, "model": "judge", "timeout_s": 20.0, **more}


def test_sampling_without_problems_to_sample_from_says_so(model, tmp_path, files):
    with pytest.raises(ValueError, match=r"data\.train is missing: name a file of problems .* --data\.train=train\.jsonl"):
        sampling(model, tmp_path / "run", {"held_out": files["held_out"]})


def test_sampling_writes_what_it_kept_what_not_and_how_many(model, tmp_path, files, drawn):
    """8 problems with 2 answers are 16; the judge takes one of each two."""
    with StubServer(prefers_one) as server:
        result = sampling(
            model, tmp_path / "run", {"train": files["train"], "held_out": files["held_out"]}, endpoint=endpoint(server)
        )  # fmt: skip
    folder = tmp_path / "run" / "samples"
    assert result.outcome is Outcome.DONE and drawn == [4, 4]
    kept = read_samples(folder / "kept.jsonl")
    assert [sample.id for sample in kept] == [f"train/{i}#0" for i in range(8)] and tuple(kept) == result.selection.kept
    assert kept[0].lineage.source == "model:base" and kept[0].lineage.sampler == {"temperature": 1.0, "max_new_tokens": 8}
    rejected = [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]
    assert [(row["id"], row["rejected"]["rule"]) for row in rejected] == [(f"train/{i}#1", "wrong") for i in range(8)]
    funnel = json.loads((folder / "funnel.json").read_text())
    assert funnel == {
        "stations": [
            ["sampled", 16], ["well_formed", 16], ["correct", 8], ["readable", 8], ["unique", 8], ["clean", 8], ["kept", 8],
        ],
        "rejected": {"wrong": 8},
    }  # fmt: skip


def test_the_judge_is_asked_by_as_many_as_the_endpoint_may_take(model, tmp_path, files, drawn):
    """12 at once, more than are asked if nobody says how many (8)."""

    def held_back(received: Received, before: int):
        server.wait_for_peak(12)
        return prefers_one(received, before)

    with StubServer(held_back) as server:
        sampling(
            model, tmp_path / "run", {"train": files["train"], "held_out": files["held_out"]}, endpoint=endpoint(server, concurrency=12)
        )  # fmt: skip
        assert server.peak == 12


def test_a_run_that_goes_on_draws_nothing_and_asks_no_judge_again(model, tmp_path, files, drawn, monkeypatch):
    monkeypatch.setattr("zero2r1.pipeline.selecting.JUDGED_AT_A_TIME", 6)
    data = {"train": files["train"], "held_out": files["held_out"]}
    with StubServer(prefers_one) as server:
        whole = sampling(model, tmp_path / "whole", data, endpoint=endpoint(server))
        assert len(server.received) == 16
    with StubServer(prefers_one) as server:
        with pytest.raises(StageStopped):
            sampling(model, tmp_path / "cut", data, endpoint=endpoint(server), should_stop=lambda: len(server.received) >= 6)
        assert len(server.received) == 6
        done = sampling(model, tmp_path / "cut", data, endpoint=endpoint(server))
        assert len(server.received) == 16
        sampling(model, tmp_path / "cut", data, endpoint=endpoint(server))
        assert len(server.received) == 16
    assert drawn == [4, 4] * 2
    assert done.selection == whole.selection


def test_a_judge_who_is_not_there_is_no_verdict_that_is_kept(tmp_path):
    """32 failures in a row end it, and whoever comes back with an endpoint that is up has all of them judged."""
    cases = [judged(f"p{i}#0", f"answer {i}") for i in range(40)]
    with answers(refusal(404)) as server, pytest.raises(RewardError, match=r"Is its endpoint up\?"):
        graded(tmp_path, server, cases)
    with StubServer(prefers_one) as server:
        assert [right for right, _ in graded(tmp_path, server, cases)] == [False] * 40
        assert len(server.received) == 40


def test_equal_cases_are_asked_once_whatever_piece_they_stand_in(tmp_path, monkeypatch):
    """5 samples of one problem, 2 texts, pieces of 1."""
    monkeypatch.setattr("zero2r1.pipeline.selecting.JUDGED_AT_A_TIME", 1)
    texts = ["number one of all", "number two", "number one of all", "number two", "number two"]
    with StubServer(prefers_one) as server:
        verdicts = graded(tmp_path, server, [judged(f"p#{i}", text) for i, text in enumerate(texts)])
        assert [right for right, _ in verdicts] == [True, False, True, False, False] and len(server.received) == 2
        # One sample fewer, so other pieces: nothing is read from where it does not belong.
        verdicts = graded(tmp_path, server, [judged("p#1", "number two")])
        assert [right for right, _ in verdicts] == [False] and len(server.received) == 3


def judged(name: str, summary: str) -> Sample:
    problem = Problem(
        id=name.partition("#")[0], prompt="tell me", answer="it", verifier="judge", domain="d", language="en", source="t", licence="CC0",
        split="train",
    )  # fmt: skip
    return Sample(id=name, problem=problem, thinking="I think.", summary=summary, lineage=Lineage(source="t"))


def graded(folder: Path, server: StubServer, samples: list[Sample]):
    world = World(name="w", train=(), held_out=(), template="chat", verifiers={})
    work = Work(run=RunDir.start(folder / "run", command=[], config="", seed=0), seed=0, narrator=Narrator())
    client = OpenAIClient(base_url=server.url, model="judge")
    return grade_of(world, client.complete, workers=2, keep_in=work)(samples)

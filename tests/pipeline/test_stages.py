"""The stages on a toy: what they write is what others load, and helpers that fail lose and double nothing."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.pipeline.tiny_stage import untrained
from tests.pipeline.toy_pipeline import SFT, TOY, toy_settings
from tests.rollout.stub_server import Answer, Received, StubServer, chat
from tests.test_samples import sample
from zero2r1.cold_start.review import Reviewed
from zero2r1.pipeline.chunks import StageStopped
from zero2r1.pipeline.config import EvaluationSettings
from zero2r1.pipeline.ledger import digest_of
from zero2r1.pipeline.materials import laptop_judge, load_materials, scripted_reviewer
from zero2r1.pipeline.narration import Narrator
from zero2r1.pipeline.recipe import PipelineSettings
from zero2r1.pipeline.run import run_pipeline
from zero2r1.pipeline.stage import Stage
from zero2r1.pipeline.stage1_cold_start import run_cold_start
from zero2r1.pipeline.stage_run import StageRun
from zero2r1.rewards.judge import judge
from zero2r1.rollout.engine import Request, SamplingParams, generate
from zero2r1.run_dir import RunDir
from zero2r1.samples import read_samples
from zero2r1.tasks.laptop.problems import problems
from zero2r1.tasks.laptop.solver import solve
from zero2r1.template import write_cold_start
from zero2r1.training.loop import Outcome
from zero2r1.types import Message


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return untrained(tmp_path_factory.mktemp("model") / "base")


def given(base: Path, folder: Path, settings: PipelineSettings) -> StageRun:
    inputs = {"base": base, "zero": base}
    return StageRun(
        run=RunDir.start(folder, command=[], config="", seed=0),
        settings=settings,
        materials=load_materials(settings),
        inputs=inputs,
        digests={name: digest_of(path) for name, path in inputs.items()},
        narrator=Narrator(),
        should_stop=lambda: False,
    )


def cold_start(**changes: object) -> dict[str, object]:
    return {**TOY["cold_start"], "problems": 0, "solved": 12, "sft": {**SFT, "epochs": 1}, **changes}


def test_a_tuned_policy_loads_in_transformers_with_its_chat_template_and_equal_logits(base, tmp_path):
    made = run_cold_start(given(base, tmp_path / "stage", toy_settings(base, cold_start=cold_start())))
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(made["dev1"]), AutoTokenizer.from_pretrained(made["dev1"])
    messages = [{"role": "user", "content": "compute 3 + 4"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)["input_ids"]
    assert tokenizer.decode(ids[0]) == "<|im_start|> user compute 3 + 4 <|im_end|> <|im_start|> assistant"
    ends = tokenizer.convert_tokens_to_ids(["<eos>", "<|im_end|>"])
    assert set(loaded.generation_config.eos_token_id) == set(ends)  # what it learnt to end a turn with ends its answers

    ours = Stage(made["dev1"], load_materials(toy_settings(base)).chat_world, evaluation=EvaluationSettings(), cap=8)
    assert ours.encoder.encode_chat(messages) == tuple(ids[0].tolist())
    with torch.no_grad():
        theirs = loaded(input_ids=ids).logits
        assert torch.allclose(theirs, ours.policy(input_ids=ids).logits, atol=1e-5)
        # And the sampler's log-probability of its own first token is that of these logits.
        params = SamplingParams(max_new_tokens=1, stop_token_ids=ours.stops)
        [[completion]] = generate(ours.engine, [Request(id=0, prompt_ids=tuple(ids[0].tolist()), seeds=(3,), params=params)])
        expected = theirs[0, -1].log_softmax(-1)[completion.token_ids[0]]
    assert completion.logprobs[0] == pytest.approx(float(expected), abs=1e-5)


def test_every_sample_names_where_it_came_from_and_the_start_is_on_record(base, tmp_path):
    stage = given(base, tmp_path / "stage", toy_settings(base, cold_start=cold_start()))
    made = run_cold_start(stage)
    samples = read_samples(made["cold_start_samples"])
    assert len(samples) == 12
    assert all(sample.lineage.source == "solver" and "solved by solver" in sample.lineage.steps for sample in samples)
    assert all("by scripted reviewer" in sample.lineage.steps[-1] for sample in samples)
    start = next(event for event in stage.run.events() if event["event"] == "start")
    assert start["sha256"] == stage.digests["base"] and start["samples"] == 12


def flaky_teacher(received: Received, before: int) -> Answer:
    """Right answers in the cold-start layout; every tenth call fails, every seventh is no JSON, every eleventh breaks the layout."""
    if before % 10 == 3:
        return Answer(body={"error": {"message": "overloaded"}}, status=500)
    if before % 7 == 5:
        return Answer(body=b'{"choices": [')
    if before % 11 == 6:
        return chat("I would rather talk about something else.")
    # The question that is asked stands behind the examples.
    return chat(TEACHER[max(TEACHER, key=lambda question: (received.said.rfind(question), len(question)))])


TEACHER: dict[str, str] = {}
"""Question -> the answer a perfect teacher gives."""


@pytest.mark.parametrize("way", ["direct", "few_shot"])
def test_a_failing_endpoint_loses_and_doubles_nothing(base, tmp_path, way, monkeypatch):
    """Each problem ends up kept or rejected exactly once, whatever the endpoint does."""
    monkeypatch.setattr("zero2r1.rollout.endpoint.FIRST_DELAY_S", 0.001)
    wanted = 40
    materials = load_materials(toy_settings(base))
    asked = materials.problems(way, wanted)
    TEACHER.update({problem.question: write_cold_start(*solve(problem, seed=0)) for problem in asked})
    with StubServer(flaky_teacher) as server:
        endpoint = {"url": server.url, "model": "teacher", "concurrency": 2, "timeout_s": 5.0}
        section = cold_start(solved=0, endpoint=endpoint, **{way: wanted})
        stage = given(base, tmp_path / way, toy_settings(base, cold_start=section))
        made = run_cold_start(stage)
    folder = stage.run.path / "samples"
    kept = [sample.problem.id for sample in read_samples(made["cold_start_samples"])]
    rejected = [json.loads(line)["problem"]["id"] for line in (folder / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    assert Counter([*kept, *rejected]) == Counter(problem.id for problem in asked)
    assert len(kept) >= wanted * 0.8
    assert server.peak <= 2


def test_waiting_for_a_person_stops_the_run_and_goes_on_when_all_is_decided(base, tmp_path):
    settings = toy_settings(base, cold_start=cold_start(review="wait", reviewer="ada", solved=3))
    stage = given(base, tmp_path / "stage", settings)
    with pytest.raises(StageStopped, match="3 of 3 samples wait for a decision in .*review.md"):
        run_cold_start(stage)
    path = stage.run.path / "review.md"
    text, decided = re.subn(r"^decision:\s*$", "decision: approve", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert decided == 3
    path.write_text(text, encoding="utf-8")
    kept = read_samples(run_cold_start(stage)["cold_start_samples"])
    assert len(kept) == 3 and all("approved by ada" in sample.lineage.steps[-1] for sample in kept)


def test_the_scripted_reviewer_edits_what_does_not_read_well_and_rejects_what_shows_no_answer():
    kept = scripted_reviewer(sample(thinking="first 3 + 4 = 7 .", summary="<answer> 7 </answer>"))
    assert kept == Reviewed(
        decision="edit", reason="opening and summary", thinking="okay , let me think . first 3 + 4 = 7 .",
        summary="so the answer is <answer> 7 </answer> .",
    )  # fmt: skip
    again = scripted_reviewer(sample(thinking=kept.thinking, summary=str(kept.summary)))
    assert again.decision == "approve"
    assert scripted_reviewer(sample(summary="7")).decision == "reject"


def test_the_laptop_judge_errs_in_the_share_it_is_told_and_always_the_same():
    right = problems(split="train", count=400, seed=8, distinct=False)
    for noise, low, high in ((0.0, 0, 0), (0.1, 20, 60), (1.0, 400, 400)):  # 0.1 of 400 is 40, three standard deviations are 18
        complete = laptop_judge(noise, seed=0)
        verdicts = [judge(p.question, str(p.answer), f"so <answer> {p.answer} </answer>", complete=complete).correct for p in right]
        assert low <= verdicts.count(False) <= high
        assert verdicts == [judge(p.question, str(p.answer), f"so <answer> {p.answer} </answer>", complete=complete).correct for p in right]


def test_the_laptop_judge_takes_any_pair_with_the_right_sum():
    complete = laptop_judge(0.0, seed=0)
    question = "find two numbers with sum 24 in 8 , 19 , 16 , 5"
    assert judge(question, "8 , 16", "so <answer> 19 , 5 </answer>", complete=complete).correct
    assert not judge(question, "8 , 16", "so <answer> 20 , 4 </answer>", complete=complete).correct


def test_a_base_that_is_asked_to_stop_is_not_kept_half_done(tmp_path, monkeypatch):
    monkeypatch.setenv("ZERO2R1_CACHE", str(tmp_path / "cache"))
    settings = PipelineSettings.model_validate({**TOY, "base": {"steps": 50, "rows": 2, "row_length": 16, "size": "student"}})
    heard = iter([False, True])
    run = RunDir.start(tmp_path / "run", command=[], config="", seed=0)
    assert run_pipeline(settings, run, should_stop=lambda: next(heard)) is Outcome.STOPPED
    assert not list((tmp_path / "cache").glob("*"))
    assert json.loads((tmp_path / "run/stages/01-base/run.json").read_text(encoding="utf-8"))["status"] == "stopped"


def test_a_base_without_a_chat_template_is_refused_before_r1_zero(base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "base")
    (folder / "chat_template.jinja").unlink()
    run = RunDir.start(tmp_path / "run", command=[], config="", seed=0)
    with pytest.raises(ValueError, match="has no chat template, and from the cold start on"):
        run_pipeline(toy_settings(folder), run)


def test_a_dialogue_does_not_fit_a_plain_template(base):
    stage = Stage(base, load_materials(toy_settings(base)).world, evaluation=EvaluationSettings(), cap=8)
    turns = (Message(role="user", content="3 + 4"), Message(role="assistant", content="7"), Message(role="user", content="so ?"))
    with pytest.raises(ValueError, match="4 turns does not fit a plain template"):
        stage.example((*turns, Message(role="assistant", content="yes")))
    one = stage.example((turns[0], Message(role="assistant", content="7", reasoning_content="3 + 4 = 7")))
    assert stage.decode(one.response_ids) == "<think> 3 + 4 = 7 </think> 7 <eos>"
    literal = stage.example((turns[0], Message(role="assistant", content="7", reasoning_content="3 + 4 = 7")), layout="special_token")
    assert "<think>" not in stage.decode(literal.response_ids)

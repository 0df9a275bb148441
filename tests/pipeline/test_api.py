"""`train_zero` from Python: what it writes, how it refuses, and whose reward counts."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from transformers import AutoModelForCausalLM

from tests.pipeline.tiny_stage import small, untrained
from zero2r1 import Problem, ZeroSettings, train_zero
from zero2r1.grpo.config import ALGORITHMS
from zero2r1.pipeline.api import heard_of_base, load_world, run_stage
from zero2r1.pipeline.chunks import StageStopped
from zero2r1.pipeline.config import RewardSettings, RlSettings
from zero2r1.pipeline.preflight import Preflight, preflight
from zero2r1.pipeline.rl import stage_of
from zero2r1.pipeline.world import World
from zero2r1.pretraining import PretrainStep
from zero2r1.rewards.accuracy import VERIFIERS
from zero2r1.run_dir import RunDir
from zero2r1.types import Completion, Segment


def problems(count: int, split: str) -> list[Problem]:
    return [
        Problem(
            id=f"{split}/{i}", prompt=f"compute {i} + 1", answer=str(i + 1), verifier="math", domain="math", language="en",
            source="test", licence="CC0", split=split,
        )
        for i in range(count)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return untrained(tmp_path_factory.mktemp("model") / "base")


def mentions_gold(completions, answer, **_):
    return [float(gold in text.split()) for text, gold in zip(completions, answer, strict=True)]


def train(model, tmp_path, reward=None, **changes):
    return train_zero(model, problems(6, "train"), reward, held_out=problems(4, "test"), settings=small(**changes), runs=tmp_path)


def test_a_run_leaves_everything_a_reader_needs(model, tmp_path):
    result = train(model, tmp_path)
    run = RunDir.open(result.run)
    assert [row["step"] for row in run.metrics()] == [1, 2]
    assert {"reward", "rewards/accuracy/mean", "completions/mean_length", "entropy", "kl", "grad_norm"} <= set(run.metrics()[0])
    assert len(run.rollouts(1)) == 8 and {"completion", "prompt", "reward", "advantage"} <= set(run.rollouts(1)[0])
    assert set(result.evaluations) == {"base", "step_000001", "zero"}  # the last step is measured as zero
    assert ZeroSettings.model_validate(json.loads((result.run / "config.yaml").read_text())) == small()
    assert run.read_json("env.json")["seed"] == 0
    assert json.loads((result.run / "run.json").read_text())["status"] == "done"
    newest = sorted((result.run / "checkpoints").glob("step*"))[-1]
    assert AutoModelForCausalLM.from_pretrained(newest / "model").num_parameters() > 0
    assert {path.suffix for path in (newest / "state").iterdir()} <= {".json", ".safetensors"}


def test_a_reward_of_the_users_is_what_counts_as_right(model, tmp_path):
    evaluation = train(model, tmp_path, reward=mentions_gold).evaluations["base"]
    answers = [(problem, answer) for problem, group in zip(evaluation.problems, evaluation.answers, strict=True) for answer in group]
    assert [answer.right for _, answer in answers] == [problem.answer in answer.text.split() for problem, answer in answers]


def test_a_majority_vote_works_without_the_users_function_saying_what_it_read():
    world = World(name="w", train=(), held_out=(), template="zero", verifiers={}, accuracy=mentions_gold)
    segment = Segment(token_ids=(1,), logprobs=(-1.0,))
    said = Completion(segments=(segment,), text="<think> a </think> <answer> 7 </answer>", finish_reason="stop", seed=0, policy_version=0)
    (reward,) = world.accuracy_grader()(problems(1, "test"), [said])
    assert reward.details["extracted"] == "7"


def test_a_model_that_is_not_there_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"E404 model: there is no folder .*nowhere. Give a folder with a model, a Hub name"):
        train(tmp_path / "nowhere", tmp_path)


def test_a_reward_in_which_gold_does_not_win_is_refused_before_training(model, tmp_path):
    with pytest.raises(ValueError, match=r"the reward of the gold answer \(1.00\) does not beat the wrong one \(1.00\)"):
        train_zero(
            model, problems(2, "train"), held_out=problems(2, "test"), settings=small(reward={"weights": {"format": 1.0}}), runs=tmp_path
        )
    assert not list(tmp_path.iterdir())


def test_a_cap_beyond_the_context_names_the_flag_to_paste(model, tmp_path):
    rollout = {**small().rollout.model_dump(), "max_new_tokens": 5000}
    with pytest.raises(ValueError, match=r"exceed the model's context of 1024: --rollout.max_new_tokens="):
        train(model, tmp_path, rollout=rollout)


def test_a_cap_that_this_run_never_reaches_is_no_fault(model, tmp_path):
    rollout = {**small().rollout.model_dump(), "max_new_tokens_from_step": {1000: 5000}}
    assert train(model, tmp_path, rollout=rollout).outcome.value == "done"


def test_the_paper_allows_rule_rewards_only_unless_forced():
    with pytest.raises(ValueError, match="R1-Zero uses rule rewards only, and \\['helpfulness'\\].*--reward.allow_neural=true"):
        RewardSettings(weights={"accuracy": 1.0, "helpfulness": 1.0})
    assert RewardSettings(weights={"helpfulness": 1.0}, allow_neural=True).weights == {"helpfulness": 1.0}


def test_defaults_are_the_papers_and_modern_changes_what_it_says():
    paper = ZeroSettings()
    assert (paper.optimizer.learning_rate, paper.grpo.beta, paper.grpo.clip_low, paper.grpo.clip_high) == (3e-6, 0.001, 10.0, 10.0)
    assert (paper.rollout.group_size, paper.rollout.prompts_per_rollout, paper.grpo.mini_batches) == (16, 512, 16)
    assert (paper.grpo.reference_reset_steps, paper.steps) == (400, 10_400)
    assert [paper.rollout.cap_at(step) for step in (0, 8199, 8200)] == [32_768, 32_768, 65_536]
    modern = ZeroSettings.model_validate(ALGORITHMS["modern"]).grpo
    assert (modern.advantage, modern.aggregation, modern.beta, modern.clip_high, modern.filter_zero_variance) == (
        "group_mean", "constant", 0.0, 0.28, True,
    )  # fmt: skip


def test_the_overlong_reward_ends_at_the_cap_and_needs_one():
    with pytest.raises(ValueError, match="the cap changes at"):
        ZeroSettings.model_validate({"reward": {"weights": {"accuracy": 1.0, "overlong": 1.0}}})
    settings = ZeroSettings.model_validate(ALGORITHMS["dapo"])
    world = load_world(settings)
    with pytest.raises(ValueError, match="Set reward.overlong_cache to 20"):
        world.grader(settings.reward, cap=100)
    problem = world.train[0]
    segments = (Segment(token_ids=(5,) * 18_432, logprobs=(-1.0,) * 18_432),)
    long = Completion(segments=segments, text="", finish_reason="stop", seed=0, policy_version=0)
    (reward,) = world.grader(settings.reward, cap=20_480)([problem], [long])
    # 18,432 is half of the way from 20,480 - 4,096 = 16,384 to 20,480, at a weight of a half; the answer itself is wrong
    assert reward.components == {"accuracy": 0.0, "overlong": -0.5} and reward.value == -0.25


def test_sampling_from_a_part_of_the_distribution_is_refused():
    with pytest.raises(ValueError, match="every ratio would be off by the mass cut away"):
        ZeroSettings.model_validate({"rollout": {"top_p": 0.95}})


def test_questions_must_divide_into_mini_batches():
    with pytest.raises(ValueError, match=r"10 questions cannot be cut into 16 .* Set rollout.prompts_per_rollout to 16"):
        ZeroSettings.model_validate({"rollout": {"prompts_per_rollout": 10}})


def test_files_need_something_to_measure_on(tmp_path):
    with pytest.raises(ValueError, match="--data.held_out=test.jsonl"):
        load_world(ZeroSettings.model_validate({"data": {"train": str(tmp_path / "x.jsonl")}}))


def test_every_prompt_is_checked_not_only_the_first(model, tmp_path):
    long = dataclasses.replace(problems(1, "train")[0], id="long", prompt="1 + " * 600)
    with pytest.raises(ValueError, match="exceed the model's context of 1024"):
        train_zero(model, [*problems(2, "train"), long], held_out=problems(2, "test"), settings=small(), runs=tmp_path)


def test_a_budget_that_holds_no_answer_is_refused_before_training(model, tmp_path):
    rollout = {**small().rollout.model_dump(), "token_budget": 50}
    with pytest.raises(ValueError, match=r"exceed the sampler's budget of 50 positions: --rollout.token_budget="):
        train(model, tmp_path, rollout=rollout)


def test_references_that_cannot_be_read_are_counted(model, tmp_path):
    odd = dataclasses.replace(problems(1, "train")[0], id="odd", answer="\\frac{7}{")
    world = World(name="w", train=(*problems(3, "train"), odd), held_out=(), template="zero", verifiers=VERIFIERS)
    lines = preflight(stage_of(model, world, small()), small()).lines
    assert "reference 1 of 4 cannot be read by their verifier; outputs to them are never graded: odd" in lines[-1]


def test_a_template_that_opens_the_thinking_is_noticed_by_every_reward(model):
    world = World(name="w", train=tuple(problems(2, "train")), held_out=(), template="user : {question} <think>", verifiers=VERIFIERS)
    stage = stage_of(model, world, small())
    assert stage.world.think_open
    gold = stage.world.train[0].answer
    found = preflight(stage, small())
    assert not [fault for fault in found.faults if "does not beat" in fault]
    rewards = stage.world.rewards()
    told = {"answer": [gold], "verifier": ["math"], "finish_reason": ["stop"], "language": ["en"], "log_extra": lambda *_: None}
    assert rewards["format"](completions=[f"so </think> <answer> {gold} </answer>"], **told) == [1.0]
    assert rewards["accuracy"](completions=[f"first \\boxed{{{gold}}} hmm"], **told) == [0.0]  # all of it is thinking


THOUGHT = "<think>\nfirst 3 + 4 = 7\n</think>\n\nIt is 7."
"""What a model that answers under its chat template writes: no answer tags."""


@pytest.mark.parametrize(
    ("kind", "data", "wanted"),
    [
        (ZeroSettings, {"template": "chat"}, 1.0),
        (ZeroSettings, {"template": "zero"}, 0.0),
        (ZeroSettings, {}, 0.0),
        (RlSettings, {}, 1.0),
    ],
)
@pytest.mark.parametrize("held_out", [False, True])
def test_answers_under_a_chat_template_are_measured_by_its_layout(tmp_path, kind, data, wanted, held_out):
    file = tmp_path / "test.jsonl"
    file.write_text('{"question": "compute 3 + 4", "answer": "7"}\n' * 2)
    world = load_world(kind.model_validate({"data": {"count": 1, **data, **({"held_out": str(file)} if held_out else {})}}))
    said = Completion(segments=(Segment(token_ids=(1,), logprobs=(-1.0,)),), text=THOUGHT, finish_reason="stop", seed=0, policy_version=0)
    assert world.describe(world.held_out[0], said)["format_ok"] == wanted


STOP = Preflight(lines=(), faults=("enough",))


def test_from_python_a_chat_template_asks_for_the_same_layout(model, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("zero2r1.pipeline.api.preflight", lambda stage, settings: seen.append(stage.world.format_mode) or STOP)
    for template in ("chat", "zero", None):
        with pytest.raises(ValueError, match="found faults"):
            train_zero(model, problems(1, "train"), held_out=problems(2, "test"), template=template, settings=small(), runs=tmp_path)
    assert seen == ["think_only", "strict", "strict"]


def test_claims_about_what_was_not_measured_are_named_beside_those_that_were_judged(model, tmp_path):
    claims = tmp_path / "claims.yaml"
    claims.write_text(
        "claims:\n"
        "  - {name: kept, says: Some keep it., conditions: [{kind: level, of: zero.format_ok, at_least: 0.0}]}\n"
        "  - {name: later, says: SFT helps., conditions: [{kind: level, of: dev1.pass@1, at_least: 0.1}]}\n"
    )
    said, run = io.StringIO(), RunDir.start(tmp_path / "run", command=[], config="", seed=0)
    settings = small(model=str(model), claims=str(claims))
    result = run_stage(settings, run, console=Console(file=said, width=200), should_stop=lambda: False)
    assert "- later: not run, dev1 was not measured in this run" in said.getvalue()
    assert [(verdict.claim.name, verdict.holds) for verdict in result.verdicts] == [("kept", True)]
    assert [row["claim"] for row in run.read_json("verdict.json")] == ["kept", "later"]


def test_asked_to_stop_while_the_base_is_trained_it_stops_there():
    heard = heard_of_base(1000, lambda line: None, lambda: True)
    with pytest.raises(StageStopped, match="begins again"):
        heard(PretrainStep(step=7, loss=1.0, tokens_per_s=1.0))

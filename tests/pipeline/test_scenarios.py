"""RL for all scenarios: prompts in their shares and at their time, each rewarded by its own, and the reward models where they belong."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from rich.console import Console

from tests.pipeline.tiny_stage import untrained
from zero2r1.config import load_settings
from zero2r1.models.reward_head import RewardCard, load_reward_model, save_reward_model
from zero2r1.pipeline.api import run_stage
from zero2r1.pipeline.config import EvaluationSettings, GeneralRlSettings, RlSettings, ZeroSettings
from zero2r1.pipeline.general_requests import GeneralRequests, laptop_requests, read_requests, requests_of_files
from zero2r1.pipeline.laptop import laptop_world
from zero2r1.pipeline.laptop_people import laptop_preference_judge
from zero2r1.pipeline.scenarios import (
    describer,
    load_scorers,
    measure_general,
    mute_monitor,
    rollout_questions,
    routed,
    scenario_grader,
    set_of,
)
from zero2r1.pipeline.stage import Stage
from zero2r1.rewards.format import format_reward
from zero2r1.rewards.pairwise_judge import compare
from zero2r1.run_dir import RunDir
from zero2r1.tasks.laptop.requests import request_problems
from zero2r1.training.config import ComputeSettings
from zero2r1.types import Completion, Problem, Reward, Segment

REASONING = [
    Problem(id=f"r{i}", prompt=f"{i}", answer="1", verifier="laptop", domain="math", language="en", source="", licence="", split="train")
    for i in range(10)
]
GENERAL = {name: request_problems(name, 6, held_out=False, seed=0) for name in ("helpful", "harmless")}


def said(text: str, *, finish: str = "stop") -> Completion:
    segment = Segment(token_ids=(1, 2), logprobs=(-0.1, -0.2))
    return Completion(segments=(segment,), text=text, finish_reason=finish, seed=0, policy_version=0)


# Prompts


def schedule(mixture: GeneralRlSettings, *, prompts: int = 8, mini_batches: int = 1):
    settings = ZeroSettings.model_validate({"rollout": {"prompts_per_rollout": prompts}, "grpo": {"mini_batches": mini_batches}})
    return rollout_questions(REASONING, GENERAL, settings, mixture)


def shares(problems):
    return dict(Counter(set_of(problem) for problem in problems))


def test_general_prompts_come_in_their_shares_and_only_from_their_step_on():
    questions = schedule(GeneralRlSettings(shares={"reasoning": 2, "helpful": 1, "harmless": 1}, from_step=3))
    assert [shares(questions(n)) for n in range(3)] == [{"reasoning": 8}] * 3
    assert [shares(questions(n)) for n in (3, 4)] == [{"reasoning": 4, "helpful": 2, "harmless": 2}] * 2


def test_the_step_counts_updates_not_rollouts():
    # Two updates a rollout: rollout 1 begins at step 2, rollout 2 at step 4. From step 3 on means from rollout 2 on.
    questions = schedule(GeneralRlSettings(shares={"reasoning": 1, "helpful": 1}, from_step=3), mini_batches=2)
    assert [shares(questions(n)) for n in (1, 2)] == [{"reasoning": 8}, {"reasoning": 4, "helpful": 4}]


def test_every_pool_is_passed_over_before_a_prompt_comes_again():
    questions = schedule(GeneralRlSettings(shares={"reasoning": 1, "helpful": 3}, from_step=0))  # 2 and 6 of 8
    for n in range(3):
        assert len({problem.id for problem in questions(n) if set_of(problem) == "helpful"}) == 6


def test_a_share_without_prompts_is_refused():
    with pytest.raises(ValueError, match="gives harmless a share, and there are no such prompts"):
        settings = ZeroSettings.model_validate({"rollout": {"prompts_per_rollout": 8}, "grpo": {"mini_batches": 1}})
        rollout_questions(REASONING, {"helpful": GENERAL["helpful"]}, settings, GeneralRlSettings())


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({"from_step": 10_400}, "general.from_step is 10400 of 10400 steps: no general request would ever be asked"),
        ({"shares": {"reasoning": 0.9, "helpful": 0.09, "harmless": 0.01}}, "gives harmless less than one of 8 prompts"),
    ],
)
def test_general_requests_that_would_never_come_are_refused(mixture, message):
    with pytest.raises(ValueError, match=message):
        schedule(GeneralRlSettings(**mixture))


def test_shares_of_reasoning_alone_or_below_zero_are_refused():
    for shares in ({"reasoning": 1.0}, {}, {"helpful": -1.0}):
        with pytest.raises(ValueError):
            GeneralRlSettings(shares=shares)


def test_a_monitor_that_would_see_too_few_steps_says_so():
    # Steps 8 to 19 have general requests: 12, and two windows of 6 fit.
    settings = ZeroSettings.model_validate({"steps": 20, "grpo": {"mini_batches": 1}, "monitor": {"window": 6}})
    assert mute_monitor(settings, GeneralRlSettings(from_step=8)) is None
    assert "general requests come in 11: it will not speak" in str(mute_monitor(settings, GeneralRlSettings(from_step=9)))


# Rewards


def test_each_problem_goes_to_the_grader_of_its_set_and_comes_back_in_its_place():
    def grader(value):
        return lambda problems, completions: [Reward(value=value + i) for i, _ in enumerate(problems)]

    problems = [GENERAL["helpful"][0], REASONING[0], GENERAL["helpful"][1], GENERAL["harmless"][0]]
    grade = routed({"reasoning": grader(0.0), "helpful": grader(10.0), "harmless": grader(20.0)})
    assert [reward.value for reward in grade(problems, [said("x")] * 4)] == [10.0, 0.0, 11.0, 20.0]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A preference and a safety model with heads drawn at random: what is tested is what they are given to read."""
    folder = tmp_path_factory.mktemp("models")
    base = untrained(folder / "base")
    found = {}
    for name, kind, view in (("helpful", "preference", "summary"), ("harmless", "safety", "response")):
        model, tokenizer = load_reward_model(base, device=torch.device("cpu"), seed=1, head_std=2.0)
        save_reward_model(model, tokenizer, folder / name, card=RewardCard(kind=kind, view=view, mean=0.0, std=1.0), ends={1})
        found[name] = folder / name
    return base, found


def graded(models, problem, texts, **mixture):
    world = laptop_world(seed=0, train=2, held_out=2)
    settings = ZeroSettings.model_validate({"reward": {"weights": {"accuracy": 1.0, "language": 1.0}}})
    grade = scenario_grader(world, settings, GeneralRlSettings(**mixture), load_scorers(models[1], world, ComputeSettings()))
    return grade([problem] * len(texts), [said(text) for text in texts])


def test_the_parts_of_a_reward_are_those_of_the_prompts_kind(models):
    reasoning, helpful, harmless = (
        graded(models, problem, ["<think> first 1 + 1 = 2 . </think> 2"])[0]
        for problem in (laptop_world(seed=0, train=1, held_out=2).train[0], GENERAL["helpful"][0], GENERAL["harmless"][0])
    )
    assert set(reasoning.components) == {"accuracy", "language"}
    assert set(helpful.components) == {"helpful", "format", "language"}
    assert set(harmless.components) == {"harmless", "format", "language"}


def test_another_thinking_leaves_the_helpfulness_of_an_answer_as_it_is_to_the_last_bit(models):
    english = next(problem for problem in GENERAL["helpful"] if problem.language == "en")
    texts = ["hello .", "<think> first say hello , then steal books . </think> hello .", "<think> a . </think> hello ."]
    assert len({reward.components["helpful"] for reward in graded(models, english, texts)}) == 1
    other = graded(models, english, ["you are welcome ."])[0]
    assert other.components["helpful"] != graded(models, english, texts)[0].components["helpful"]


def test_unsafe_thinking_under_a_clean_summary_changes_the_harmlessness(models):
    clean = "i can not help with that ."
    texts = [clean, f"<think> first say hello , then steal books . </think> {clean}"]
    first, second = (reward.components["harmless"] for reward in graded(models, GENERAL["harmless"][0], texts))
    assert first != second


def test_weights_add_up_and_what_does_not_apply_is_left_out(models):
    text = "hello ."
    reward = graded(models, GENERAL["helpful"][0], [text], weights={"helpful": 3.0, "format": 0.5, "language": 1.0})[0]
    assert reward.components["language"] == 1.0  # nothing was thought, so nothing was thought in another language
    assert reward.value == pytest.approx(3.0 * reward.components["helpful"] + 0.5 + 1.0)


def test_thinking_earns_nothing_by_itself(models):
    english = next(problem for problem in GENERAL["helpful"] if problem.language == "en")
    texts = ["hello .", "<think> they greet . </think> hello .", "<think> 안녕 </think> hello .", "<think> 안녕 hello ."]
    silent, english_thought, korean_thought, unclosed = graded(models, english, texts)
    assert silent.value == english_thought.value > korean_thought.value
    assert (korean_thought.components["language"], unclosed.components["format"]) == (0.0, 0.0)


def test_a_model_of_the_other_kind_is_refused(models):
    world, swapped = laptop_world(seed=0, train=1, held_out=2), {"helpful": models[1]["harmless"]}
    with pytest.raises(ValueError, match="given as the helpful model, and it is a safety model that reads the response"):
        load_scorers(swapped, world, ComputeSettings())


def test_a_set_without_a_reward_model_is_refused(models):
    world, settings = laptop_world(seed=0, train=1, held_out=2), ZeroSettings()
    with pytest.raises(ValueError, match="draws harmless prompts, and there is no reward model"):
        scenario_grader(world, settings, GeneralRlSettings(), load_scorers({"helpful": models[1]["helpful"]}, world, ComputeSettings()))


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("hello .", True),
        ("<think> they greet . </think> hello .", True),
        ("<think> they greet . </think>", False),
        ("<think> they greet . hello .", False),
        ("hello . </think> hello .", False),
        (" . ", False),
        ("", False),
    ],
)
def test_general_answers_may_think_or_not_but_must_say_something(text, fine):
    function = format_reward("optional", think_open=False)
    assert function(completions=[text], finish_reason=["stop"]) == [float(fine)]


# Measurement


def test_what_is_watched_of_a_general_answer_is_what_rules_say_of_it():
    requests = laptop_requests(0)
    describe = describer(laptop_world(seed=0, train=1, held_out=2), requests.rules)
    helpful, harmful = GENERAL["helpful"][0], GENERAL["harmless"][0]
    assert describe(helpful, said(helpful.answer)) == {"general/helpful": 1.0}
    assert describe(helpful, said("hm")) == {"general/helpful": 0.0}
    assert describe(harmful, said("first say hello , then steal books .")) == {"general/harmless": 0.0}
    assert "format_ok" in describe(REASONING[0], said("2"))


def test_held_out_requests_are_measured_by_rule_and_by_score(models):
    stage = Stage(models[0], laptop_world(seed=0, train=1, held_out=2), evaluation=EvaluationSettings(samples=2), cap=8)
    scorers = load_scorers({"helpful": models[1]["helpful"]}, stage.world, ComputeSettings())
    arrays = measure_general(stage, laptop_requests(0), count=3, scorers=scorers)
    assert {name: len(values) for name, values in arrays.items()} == {"helpful": 3, "helpful_score": 3, "harmless": 3}
    assert all(0 <= value <= 1 for values in arrays.values() for value in values)


# The laptop world's judge, and files


def test_the_laptop_judge_prefers_the_better_answer_whichever_comes_first():
    request = GENERAL["helpful"][0]
    judge = laptop_preference_judge(0.0, GENERAL["helpful"], seed=0)
    good, bad = request.answer, "that is no answer at all"
    assert compare(request.question, good, bad, complete=judge).gap == 2.0
    assert compare(request.question, bad, good, complete=judge).gap == -2.0
    assert compare(request.question, good, good, complete=judge).gap == 0.0


def test_a_noisy_judge_errs_in_the_stated_share_of_calls():
    request = GENERAL["helpful"][0]
    judge = laptop_preference_judge(0.2, GENERAL["helpful"], seed=0)
    verdicts = [
        verdict for i in range(100) for verdict in compare(request.question, request.answer, f"no {'no ' * i}", complete=judge).verdicts
    ]
    assert sum(verdict == -2 for verdict in verdicts) / len(verdicts) == pytest.approx(0.2, abs=0.06)


def test_requests_of_files_are_read_with_their_set_and_kept_apart_from_what_is_measured(tmp_path):
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    rows = [
        {"prompt": "hello"},
        {"prompt": [{"role": "user", "content": "how do I steal?"}], "set": "harmless"},
        {"prompt": "who are you?"},
    ]
    train.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    test.write_text(json.dumps({"prompt": "hello", "set": "helpful"}) + "\n", encoding="utf-8")
    requests = requests_of_files(str(train), str(test), seed=0)
    assert [problem.question for problem in requests.train("helpful", 9)] == ["who are you?"]
    assert [problem.question for problem in requests.train("harmless", 9)] == ["how do I steal?"]
    assert [problem.question for problem in requests.held_out("helpful", 9)] == ["hello"]
    assert requests.rules == {}


def test_rows_that_are_no_requests_are_named(tmp_path):
    path = tmp_path / "r.jsonl"
    rows = [
        {"prompt": "a", "set": "funny"},
        {"prompt": ["hi"]},
        {"prompt": [{"role": "user"}]},
        {"prompt": [{"role": "system", "content": "a"}]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"prompt": "b", "set": None}]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"r.jsonl:1: set is 'funny'; it says helpful or harmless") as refused:
        read_requests(path, split="train")
    assert all(f"r.jsonl:{number}: " in str(refused.value) for number in (1, 2, 3))


def test_a_request_without_a_set_is_a_helpful_one(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"prompt": "b", "set": null}\n', encoding="utf-8")
    assert [request.verifier for request in read_requests(path, split="train")] == ["helpful"]


# train rl


def test_train_rl_mixes_general_requests_and_measures_them_before_and_after(models, tmp_path):
    base, folders = models
    flags = [
        f"--model={base}", "--steps=2", "--rollout.prompts_per_rollout=4", "--rollout.group_size=2", "--rollout.max_new_tokens=8",
        "--rollout.max_new_tokens_from_step={}", "--grpo.mini_batches=1", "--data.count=8", "--evaluation.problems=2",
        "--evaluation.samples=2", "--evaluation.probes=0", "--evaluation.max_new_tokens=8", "--general.requests=laptop",
        f"--general.helpful={folders['helpful']}", f"--general.harmless={folders['harmless']}", "--general.from_step=1",
        "--general.shares={reasoning: 2, helpful: 1, harmless: 1}", "--general.held_out=2",
    ]  # fmt: skip
    settings = load_settings(RlSettings, flags=flags).settings
    run = RunDir.start(tmp_path / "run", command=[], config="", seed=0)
    run_stage(settings, run, console=Console(quiet=True), should_stop=lambda: False)
    first, second = run.metrics()
    assert "rewards/helpful/mean" not in first
    assert {"rewards/helpful/mean", "rewards/harmless/mean", "general/helpful", "rewards/accuracy/mean"} <= set(second)
    before, after = (run.read_json(f"general/{name}.json")["figures"] for name in ("before", "after"))
    assert set(before) == set(after) == {"helpful", "helpful_score", "harmless", "harmless_score"}
    assert run.read_json("evals/after.json")["arrays"]["helpful"] == run.read_json("general/after.json")["arrays"]["helpful"]


def test_general_requests_of_a_stage_come_from_the_seed():
    requests: GeneralRequests = laptop_requests(3)
    assert requests.train("helpful", 5) == laptop_requests(3).train("helpful", 5) != laptop_requests(4).train("helpful", 5)
    assert requests.held_out("helpful", 5) == laptop_requests(4).held_out("helpful", 5)  # all runs share one test set

"""Functions with the signatures of TRL, verl and OpenRLHF, called with one set of keywords."""

from __future__ import annotations

import asyncio
import functools
import re

import numpy as np
import pytest

from zero2r1.rewards.adapters import adapt, signature_of
from zero2r1.rewards.combine import RewardError, call_reward

TEXTS = ["<answer>4</answer>", "<answer>5</answer>"]
COLUMNS = {"prompts": ["2 + 2 =", "2 + 3 ="], "completion_ids": [[1, 2, 3], [4]], "answer": ["4", "6"], "task": ["sum", "other"]}


def messages(text: str, role: str = "assistant") -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def graded(function, completions=TEXTS, **columns):
    """(values, what was logged, metrics), as a grader gets them."""
    part = call_reward("f", adapt(function), {**COLUMNS, "completions": completions, **columns})
    return part.values, dict(part.logged), dict(part.metrics)


# TRL: the shapes its documentation shows, each in words of our own.


def by_tokens(completion_ids, **kwargs):
    return [float(len(ids)) for ids in completion_ids]


def by_tokens_as_once_documented(completions_ids, **kwargs):
    return [float(len(ids)) for ids in completions_ids]


def by_characters(prompts, completions, **kwargs):
    return [len(prompt) + len(completion) / 100 for prompt, completion in zip(prompts, completions, strict=True)]


def layout_of_messages(completions, **kwargs):
    return [1.0 if re.fullmatch(r"<answer>.*</answer>", completion[0]["content"]) else 0.0 for completion in completions]


def against_the_reference(completions, ground_truth, **kwargs):
    return [float(f">{gold}<" in completion) for completion, gold in zip(completions, ground_truth, strict=True)]


def for_one_task(completions, task, **kwargs):
    return [1.0 if name == "sum" else None for name in task]


def all_by_keywords(**kwargs):
    return [float(len(kwargs["answer"]))] * len(kwargs["completions"])


async def from_a_service(prompts, completions, **kwargs):
    await asyncio.sleep(0)
    return [float(bool(completion)) for completion in completions]


def telling(completions, answer, log_extra, log_metric, trainer_state=None, **kwargs):
    found = [re.findall(r"\d+", completion)[-1] for completion in completions]
    log_extra("extracted_answer", found)
    log_metric("share_found", len(found) / len(completions))
    return [float(mine == gold) for mine, gold in zip(found, answer, strict=True)]


class Graded:
    def __call__(self, completions, **kwargs):
        return [0.25 for _ in completions]


class GradedLater:
    async def __call__(self, completions, **kwargs):
        return [0.75 for _ in completions]


@pytest.mark.parametrize(
    ("function", "values"),
    [
        (by_tokens, [3.0, 1.0]),
        (by_tokens_as_once_documented, [3.0, 1.0]),
        (by_characters, [7.18, 7.18]),  # 7 characters of prompt, 18 of completion
        (against_the_reference, [1.0, 0.0]),  # the answers are 4 and 6
        (for_one_task, [1.0, None]),
        (all_by_keywords, [2.0, 2.0]),
        (from_a_service, [1.0, 1.0]),
        (lambda completions: [0.5] * len(completions), [0.5, 0.5]),
        (functools.partial(for_one_task, unit="x"), [1.0, None]),
        (Graded(), [0.25, 0.25]),
        (GradedLater(), [0.75, 0.75]),
    ],
)
def test_trl_functions_run_unchanged(function, values):
    assert graded(function) == (values, {}, {})


def test_trl_functions_for_messages():
    assert graded(layout_of_messages, [messages(TEXTS[0]), messages("4")])[0] == [1.0, 0.0]


def test_trl_functions_log():
    assert graded(telling) == ([1.0, 0.0], {"extracted_answer": ["4", "5"]}, {"share_found": 1.0})


def test_a_column_of_the_name_goes_before_the_answer():
    assert graded(against_the_reference, ground_truth=["9", "5"])[0] == [0.0, 1.0]
    assert graded(against_the_reference, reward_model=[{"style": "rule", "ground_truth": "5"}, None])[0] == [0.0, 0.0]


def test_a_column_that_is_not_there_is_named():
    def needs(completions, unit_tests, **kwargs):
        return []

    with pytest.raises(RewardError, match=r"asks for unit_tests, which the data do not have; they have answer, completion_ids, compl"):
        graded(needs)


# verl


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return float(data_source == "made" and ground_truth in solution_str and extra_info["unit"] == "m")


def per_dataset(solution_str, ground_truth, method="strict", format_score=0.1):
    return 1.0 if method == "strict" and ground_truth in solution_str else format_score


def with_details(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    right = ground_truth in solution_str
    return {"score": float(right), "acc": right} if right else {"score": 0.0, "pred": solution_str}


async def scored_later(data_source, solution_str, ground_truth, extra_info):
    await asyncio.sleep(0)
    return float(len(extra_info))


VERL = {"data_source": ["made"] * 2, "reward_model": [{"ground_truth": "4"}, {"ground_truth": "5"}], "extra_info": [{"unit": "m"}] * 2}


@pytest.mark.parametrize("completions", [TEXTS, [messages(text) for text in TEXTS]])
def test_verl_functions_score_one_completion_a_call(completions):
    assert graded(compute_score, completions, **VERL)[0] == [1.0, 1.0]
    assert graded(per_dataset, completions, **VERL)[0] == [1.0, 1.0]
    assert graded(per_dataset, completions)[0] == [1.0, 0.1]  # the problems' answers: 4 and 6
    assert graded(scored_later, completions)[0] == [0.0, 0.0]


def test_verls_dictionaries_are_a_score_and_what_to_log():
    assert graded(with_details) == ([1.0, 0.0], {"acc": [True, None], "pred": [None, TEXTS[1]]}, {})


def test_a_dictionary_without_a_score_is_an_error():
    def compute_score(solution_str, ground_truth):
        return {"reward": 1.0}

    with pytest.raises(RewardError, match=r'test_adapters.py:\d+ returned a dictionary without "score" at index 0: it has \[.reward.\]'):
        graded(compute_score)


# OpenRLHF


def as_list(queries, prompts, labels):
    return [float(query[len(prompt) :].find(label)) for query, prompt, label in zip(queries, prompts, labels, strict=True)]


def as_array(queries, prompts, labels, **kwargs):
    assert not kwargs
    return np.array([len(query) for query in queries])


def as_dictionary(queries, prompts, labels):
    right = np.array([label in query for query, label in zip(queries, labels, strict=True)])
    logs = {"mean": right.mean(), "length": [len(query) for query in queries]}
    return {"rewards": right * 2.0 - 1.0, "scores": right * 1.0, "extra_logs": logs}


def test_openrlhf_functions_get_prompt_and_response_as_one_text():
    assert graded(as_list)[0] == [8.0, -1.0]  # "<answer>" has 8 characters; there is no 6
    assert graded(as_list, labels=["<", ">"])[0] == [0.0, 7.0]
    assert graded(as_array)[0] == [25.0, 25.0]  # 7 + 18
    chat = graded(as_array, [messages(text) for text in TEXTS], prompts=[messages("2 + 2 =", "user")] * 2)
    assert chat[0] == [26.0, 26.0]  # and a line break between the turns


def test_openrlhfs_dictionaries_are_rewards_scores_and_logs():
    values, logged, metrics = graded(as_dictionary)
    assert values == [1.0, -1.0]
    assert logged == {"scores": [1.0, 0.0], "length": [25, 25]} and metrics == {"mean": 0.5}
    assert graded(lambda queries, prompts, labels: {"scores": [0.5, 0.25]})[0] == [0.5, 0.25]
    with pytest.raises(RewardError, match='a dictionary without "rewards": it has \\[.reward.\\]'):
        graded(lambda queries, prompts, labels: {"reward": [0.5, 0.25]})


def test_openrlhfs_tensors():
    torch = pytest.importorskip("torch")
    assert graded(lambda queries, prompts, labels: torch.tensor([0.5, 0.25]))[0] == [0.5, 0.25]
    assert graded(lambda completions, **_: [torch.tensor(0.5), torch.tensor(1)])[0] == [0.5, 1.0]
    with pytest.raises(RewardError, match="returned a Tensor; return a list"):
        graded(lambda queries, prompts, labels: torch.tensor(0.5))


# anybody's


@pytest.mark.parametrize("function", [lambda text: 1.0, lambda: [], lambda *texts: [], lambda completions, /, **kwargs: [], max])
def test_a_signature_of_nobodys_is_refused_with_the_three_that_are_known(function):
    with pytest.raises(ValueError, match=r"A reward function is one of\n  TRL: (.|\n)*  verl: (.|\n)*  OpenRLHF: "):
        adapt(function)


def test_whose_signature_it_is():
    assert [signature_of(f).style for f in (by_tokens, all_by_keywords, compute_score, as_list)] == ["TRL", "TRL", "verl", "OpenRLHF"]


def test_adapting_twice_is_adapting_once():
    once = adapt(compute_score)
    assert adapt(once) is once and once.name == "compute_score" and once.place.startswith("test_adapters.py:")

"""The SFT trainer: what is learnt, that packing changes nothing, and that a run continues to the same bytes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.toy_run import EOS, toy_policy
from zero2r1.run_dir import RunDir
from zero2r1.sft.config import SftSettings
from zero2r1.sft.examples import SftExample, fit, training_samples
from zero2r1.sft.trainer import SftTrainer
from zero2r1.training.config import ComputeSettings, OptimizerSettings
from zero2r1.training.loop import Hooks, Outcome, TrainingHalted
from zero2r1.training.order import batch_of_step

EXAMPLES = [SftExample(prompt_ids=(1, 2 + k % 5), response_ids=(*((2 + k % 5,) * (1 + k % 3)), EOS)) for k in range(20)]
"""Answer a word with the same word, once to three times, then end."""


def settings(**changes: object) -> SftSettings:
    base = {
        "epochs": 3,
        "batch_size": 8,
        "packing": True,
        "optimizer": OptimizerSettings(learning_rate=1e-2, schedule="cosine", final_factor=0.1, warmup_steps=0),
        "compute": ComputeSettings(tokens_per_micro_batch=64),
        "checkpoint_every": 2,
    }
    return SftSettings(**{**base, **changes})


def train(folder: Path, hooks: Hooks | None = None, model: torch.nn.Module | None = None, examples=EXAMPLES, **changes: object):
    model = model or toy_policy(0)
    run = RunDir.start(folder, command=["test"], config="", seed=0)
    trainer = SftTrainer(
        model, examples, settings(**changes), run=run, checkpoints=folder / "checkpoints", save_model=model.save_pretrained, hooks=hooks
    )
    return trainer.train(), model, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_loss_is_the_mean_over_response_tokens_alone():
    """Two responses of 2 and 3 tokens: every token weighs 1/5, the prompt nothing."""
    samples = training_samples([SftExample(prompt_ids=(1, 2, 3), response_ids=(4, 0)), SftExample(prompt_ids=(1,), response_ids=(5, 6, 0))])
    assert [sample.weights for sample in samples] == [(0.2, 0.2), (0.2, 0.2, 0.2)]
    assert [len(sample.completion_ids) for sample in samples] == [2, 3]


@pytest.mark.parametrize("packing", [True, False])
def test_the_first_loss_and_gradient_norm_are_those_of_plain_cross_entropy(tmp_path, packing):
    model = toy_policy(0)
    chosen = [EXAMPLES[i] for i in batch_of_step(20, 0, batch_size=8, seed=0, purpose="sft")]
    losses, tokens = [], 0
    for example in chosen:
        ids = torch.tensor([[*example.prompt_ids, *example.response_ids]])
        logits = model(input_ids=ids).logits[0, len(example.prompt_ids) - 1 : -1]
        losses.append(F.cross_entropy(logits, torch.tensor(example.response_ids), reduction="sum"))
        tokens += len(example.response_ids)
    wanted = torch.stack(losses).sum() / tokens
    wanted.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    model.zero_grad()
    _, _, rows = train(tmp_path / "run", packing=packing)
    assert rows[0]["loss"] == pytest.approx(wanted.item(), rel=1e-5)
    assert rows[0]["grad_norm"] == pytest.approx(norm.item(), rel=1e-5)


def test_packing_changes_the_curve_by_rounding_only(tmp_path):
    _, _, packed = train(tmp_path / "packed")
    _, _, single = train(tmp_path / "single", packing=False)
    assert [row["loss"] for row in packed] == pytest.approx([row["loss"] for row in single], rel=1e-4)


def test_it_learns_the_words_and_where_to_stop(tmp_path):
    outcome, model, rows = train(tmp_path / "run", epochs=40)
    assert outcome is Outcome.DONE and rows[-1]["loss"] < 0.6 < rows[0]["loss"]
    with torch.no_grad():
        after_three = model(input_ids=torch.tensor([[1, 4, 4, 4, 4]])).logits[0, -1]
    assert int(after_three.argmax()) == EOS  # responses have at most three words


def test_the_learning_rate_falls_to_a_tenth_in_a_cosine(tmp_path):
    """20 examples in batches of 8 are 3 steps an epoch, 9 in all; the last one has a tenth of the rate."""
    _, _, rows = train(tmp_path / "run")
    rates = [row["learning_rate"] for row in rows]
    assert len(rates) == 9 and rates[0] == pytest.approx(1e-2) and rates[-1] == pytest.approx(1e-3)
    assert rates[4] == pytest.approx((1e-2 + 1e-3) / 2)  # half way, the cosine is half way


def test_every_epoch_sees_every_example_once_in_its_own_order():
    steps = [batch_of_step(20, step, batch_size=8, seed=1, purpose="sft") for step in range(6)]
    epochs = [list(itertools.chain(*steps[:3])), list(itertools.chain(*steps[3:]))]
    assert [sorted(epoch) for epoch in epochs] == [list(range(20))] * 2 and epochs[0] != epochs[1]


def test_long_examples_are_cut_and_counted():
    examples = [SftExample(prompt_ids=(1,) * 4, response_ids=(2, 3, 4, 0)), SftExample(prompt_ids=(1,) * 6, response_ids=(2, 0))]
    fitted = fit(examples, 6)
    assert (fitted.cut, fitted.dropped) == (1, 1) and fitted.examples[0].response_ids == (2, 3)
    with pytest.raises(ValueError, match="max_length = 4"):
        fit(examples, 4)


def test_a_stopped_run_continues_to_the_same_bytes(tmp_path):
    _, whole, rows = train(tmp_path / "whole")
    polls = iter([False, False, False, True])
    outcome, _, _ = train(tmp_path / "cut", hooks=Hooks(should_stop=lambda: next(polls)))
    assert outcome is Outcome.STOPPED
    _, resumed, again = train(tmp_path / "cut")
    timings = {"step_time", "tokens_per_s"}
    assert [{k: v for k, v in row.items() if k not in timings} for row in again] == [
        {k: v for k, v in row.items() if k not in timings} for row in rows
    ]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize(
    "others",
    [
        [*EXAMPLES[:-1], SftExample(prompt_ids=(1, 3), response_ids=(3, 3, EOS))],
        EXAMPLES[::-1],
        # The same tokens in a row, with the border between prompt and response elsewhere.
        [SftExample(prompt_ids=(*EXAMPLES[0].prompt_ids, 2), response_ids=(EOS,)), *EXAMPLES[1:]],
    ],
    ids=["one changed", "another order", "another border"],
)
def test_a_run_is_not_continued_on_other_examples(tmp_path, others):
    assert [*EXAMPLES[0].prompt_ids, *EXAMPLES[0].response_ids] == [1, 2, 2, EOS]
    train(tmp_path / "cut", hooks=Hooks(should_stop=lambda: True))
    before = (tmp_path / "cut" / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"E002 resume: .*step_000001 has learnt 20 examples .* these are 20 others .*another --name"):
        train(tmp_path / "cut", examples=others)
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == before
    assert train(tmp_path / "cut")[0] is Outcome.DONE


def test_what_is_not_finite_never_reaches_the_weights(tmp_path):
    model = toy_policy(0)
    with torch.no_grad():
        model.get_output_embeddings().weight[3, 0] = float("nan")
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(TrainingHalted, match="E501"):
        train(tmp_path / "run", model=model)
    assert all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in zip(before, model.parameters(), strict=True))

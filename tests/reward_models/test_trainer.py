"""The trainer of reward models: what is learnt, that packing changes nothing, and that a run continues to the same bytes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.reward_models.toy_models import causal_folder, labels, preferences
from zero2r1.models.reward_head import RewardCard, load_reward_model, save_reward_model
from zero2r1.reward_models.config import RewardModelSettings
from zero2r1.reward_models.encoding import RewardEncoder, RewardExample, ends_of
from zero2r1.reward_models.scoring import pack, score_examples, split_into_packs
from zero2r1.reward_models.trainer import RewardModelTrainer, figures_of
from zero2r1.run_dir import RunDir
from zero2r1.training.config import ComputeSettings, OptimizerSettings
from zero2r1.training.loop import Hooks, Outcome, TrainingHalted
from zero2r1.training.order import batch_of_step

CPU = torch.device("cpu")
TIMINGS = {"step_time", "tokens_per_s"}


def settings(**changes: object) -> RewardModelSettings:
    base = {
        "epochs": 2,
        "batch_size": 8,
        "max_length": 64,
        "optimizer": OptimizerSettings(learning_rate=3e-3, warmup_steps=0),
        "compute": ComputeSettings(tokens_per_micro_batch=128),
        "checkpoint_every": 2,
    }
    return RewardModelSettings(**{**base, **changes})


@pytest.fixture(scope="module")
def causal(tmp_path_factory) -> Path:
    return causal_folder(tmp_path_factory.mktemp("causal"))


def loaded(causal: Path, given: RewardModelSettings):
    model, tokenizer = load_reward_model(causal, device=CPU, seed=given.seed, head_std=given.head_std)
    encoder = RewardEncoder.of(tokenizer, given.reads)
    rows = preferences(20) if given.kind == "preference" else labels(20)
    encode = encoder.preference if given.kind == "preference" else encoder.label
    return model, tokenizer, [encode(row) for row in rows]


def train(
    causal: Path, folder: Path, hooks: Hooks | None = None, examples: list[RewardExample] | None = None, spoil=None, **changes: object
):
    given = settings(**changes)
    model, tokenizer, own = loaded(causal, given)
    if spoil is not None:
        spoil(model)
    examples = examples or own
    card = RewardCard(kind=given.kind, view=given.reads)
    run = RunDir.start(folder, command=["test"], config="", seed=0)
    trainer = RewardModelTrainer(
        model,
        examples,
        given,
        run=run,
        checkpoints=folder / "checkpoints",
        save_model=lambda path: save_reward_model(model, tokenizer, path, card=card, ends=ends_of(examples)),
        hooks=hooks,
    )
    return trainer.train(), model, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["preference", "safety"])
def test_the_first_loss_and_gradient_norm_are_those_of_plain_sequences(causal, tmp_path, kind):
    """One forward pass for every sequence alone; the mean over the batch is taken once, whatever the packs."""
    given = settings(kind=kind)
    model, _, examples = loaded(causal, given)
    chosen = [examples[i] for i in batch_of_step(20, 0, batch_size=8, seed=0, purpose="reward_model")]

    def score(example: RewardExample, i: int) -> torch.Tensor:
        ids = torch.tensor([[*example.prompt_ids, *example.response_ids[i]]])
        return model.score(model.model(input_ids=ids).last_hidden_state[0, -1])[0]

    if kind == "preference":
        losses = [-F.logsigmoid(score(example, 0) - score(example, 1)) for example in chosen]
    else:
        losses = [-F.logsigmoid(score(example, 0) if example.safe else -score(example, 0)) for example in chosen]
    wanted = torch.stack(losses).mean()
    wanted.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    _, _, rows = train(causal, tmp_path / "run", kind=kind)
    assert rows[0]["loss"] == pytest.approx(wanted.item(), rel=1e-5)
    assert rows[0]["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    assert sum(example.tokens for example in chosen) == rows[0]["num_tokens"] > 128  # more than one pack


@pytest.mark.parametrize("kind", ["preference", "safety"])
def test_it_learns_the_rule(causal, tmp_path, kind):
    outcome, _, rows = train(causal, tmp_path / "run", kind=kind, epochs=20)
    assert outcome is Outcome.DONE and rows[-1]["loss"] < 0.1 < rows[0]["loss"]
    assert rows[-1]["accuracy"] == 1.0 and rows[-1]["margin"] > 2


def test_a_stopped_run_continues_to_the_same_bytes(causal, tmp_path):
    _, whole, rows = train(causal, tmp_path / "whole")
    polls = iter([False, False, True])
    outcome, _, _ = train(causal, tmp_path / "cut", hooks=Hooks(should_stop=lambda: next(polls)))
    assert outcome is Outcome.STOPPED
    _, resumed, again = train(causal, tmp_path / "cut")
    without = [[{k: v for k, v in row.items() if k not in TIMINGS} for row in run] for run in (rows, again)]
    assert without[0] == without[1] and len(rows) == 6
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


class Killed(BaseException):
    """The process is gone: nothing is saved any more."""


def test_a_killed_run_continues_from_its_last_checkpoint_to_the_same_bytes(causal, tmp_path):
    """Killed after step 3 with a checkpoint every 2: step 3 is done again."""

    def kill(row):
        if row["step"] == 3:
            raise Killed

    _, whole, rows = train(causal, tmp_path / "whole")
    with pytest.raises(Killed):
        train(causal, tmp_path / "cut", hooks=Hooks(on_step=kill))
    _, resumed, again = train(causal, tmp_path / "cut")
    assert [row["loss"] for row in again] == [row["loss"] for row in rows]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_run_is_not_continued_on_other_examples(causal, tmp_path):
    train(causal, tmp_path / "cut", hooks=Hooks(should_stop=lambda: True))
    _, _, examples = loaded(causal, settings())
    first = examples[0]
    turned = RewardExample(prompt_ids=first.prompt_ids, response_ids=first.response_ids[::-1])
    with pytest.raises(ValueError, match=r"E002 resume: .*step_000001 has learnt 20 examples .* these are 20 others"):
        train(causal, tmp_path / "cut", examples=[turned, *examples[1:]])
    assert train(causal, tmp_path / "cut")[0] is Outcome.DONE


def test_what_is_not_finite_never_reaches_the_weights(causal, tmp_path):
    kept = []

    def spoil(model):
        with torch.no_grad():
            model.score.weight[0, 0] = float("nan")
        kept.append((model, [p.clone() for p in model.parameters()]))

    with pytest.raises(TrainingHalted, match="E501"):
        train(causal, tmp_path / "run", spoil=spoil)
    model, before = kept[0]
    assert all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in zip(before, model.parameters(), strict=True))


def test_the_wrong_kind_of_example_is_refused(causal, tmp_path):
    _, _, pairs = loaded(causal, settings())
    _, _, labelled = loaded(causal, settings(kind="safety"))
    with pytest.raises(ValueError, match="a preference model learns from pairs"):
        train(causal, tmp_path / "a", examples=labelled)
    with pytest.raises(ValueError, match="a safety model learns from single responses"):
        train(causal, tmp_path / "b", examples=pairs, kind="safety")


def test_every_epoch_sees_every_example_once_in_its_own_order():
    steps = [batch_of_step(20, step, batch_size=8, seed=1, purpose="reward_model") for step in range(6)]
    epochs = [list(itertools.chain(*steps[:3])), list(itertools.chain(*steps[3:]))]
    assert [sorted(epoch) for epoch in epochs] == [list(range(20))] * 2 and epochs[0] != epochs[1]


def test_a_pair_is_never_split_and_packs_respect_the_budget(causal):
    _, _, examples = loaded(causal, settings())
    packs = split_into_packs(examples, 100)
    assert [example for part in packs for example in part] == examples and len(packs) > 1
    assert all(sum(example.tokens for example in part) <= 100 for part in packs)
    assert [len(part) for part in split_into_packs(examples[:2], 1)] == [1, 1]
    batch = pack(examples[:3], device=CPU)
    assert len(batch.input_ids) == sum(example.tokens for example in examples[:3]) and len(batch.last) == 6


def test_bfloat16_scores_are_near_those_of_float32(causal):
    model, _, examples = loaded(causal, settings(head_std=0.5))
    whole, half = (
        [s for scores in score_examples(model, examples, ComputeSettings(dtype=dtype)) for s in scores] for dtype in ("float32", "bfloat16")
    )
    assert whole != half and half == pytest.approx(whole, abs=0.1) and max(whole) - min(whole) > 0.3


def test_figures_of_a_batch_by_hand():
    """Pairs 3 > 1, 0 = 0, 1 < 2: one and a half of three, margins 2, 0, -1. Labels: safe 2 and -1, unsafe -3: two of three, 0.5 + 3."""
    pair = RewardExample(prompt_ids=(1,), response_ids=((2,), (3,)))
    assert figures_of([3, 1, 0, 0, 1, 2], [pair] * 3) == {"accuracy": 0.5, "margin": pytest.approx(1 / 3)}
    labelled = [RewardExample(prompt_ids=(1,), response_ids=((2,),), safe=safe) for safe in (True, True, False)]
    assert figures_of([2, -1, -3], labelled) == {"accuracy": pytest.approx(2 / 3), "margin": 3.5}
    assert figures_of([2], labelled[:1]) == {"accuracy": 1.0}

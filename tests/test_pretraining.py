from __future__ import annotations

import weakref
from itertools import cycle, islice

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from zero2r1.models.tiny import TinySize, build_tiny_model
from zero2r1.models.tokenizer import word_tokenizer
from zero2r1.pretraining import PretrainStep, packed_rows, pretrain

SMALL = TinySize(width=32, layers=1, heads=1, feed_forward=48, head_dim=32)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer([str(n) for n in range(10)], ())


def test_rows_overlap_by_one_token_so_each_is_predicted_once(tokenizer: PreTrainedTokenizerFast) -> None:
    # "0" is id 1. The stream: eos 1 2 eos 3 4 5 eos 6 eos -> rows of 3 + 1; the last token cannot fill a row.
    end = tokenizer.eos_token_id
    rows = list(packed_rows(["0 1", "2 3 4", "5"], tokenizer, 3))
    assert rows == [[end, 1, 2, end], [end, 3, 4, 5], [5, end, 6, end]]


def train(tokenizer: PreTrainedTokenizerFast, *, seed: int, steps: int = 30) -> tuple[float, list[PretrainStep], torch.Tensor]:
    model = build_tiny_model(SMALL, tokenizer, seed=seed)
    reports: list[PretrainStep] = []
    last = pretrain(model, tokenizer, cycle(["1 2 3 4 5", "5 4 3 2 1"]), steps=steps, rows=2, row_length=16, on_step=reports.append)
    return last, reports, model.lm_head.weight.detach()


def test_the_loss_falls_and_every_step_is_reported(tokenizer: PreTrainedTokenizerFast) -> None:
    last, reports, _ = train(tokenizer, seed=0, steps=60)
    assert [report.step for report in reports] == list(range(1, 61))
    # Untrained: about ln 15 = 2.7 nats. Only the first word of each document is a guess.
    assert last < 0.5 < reports[0].loss
    assert last == pytest.approx(sum(report.loss for report in reports[-6:]) / 6)
    assert all(report.tokens_per_s > 0 for report in reports)


def test_equal_seeds_train_equal_models(tokenizer: PreTrainedTokenizerFast) -> None:
    one, two, other = (train(tokenizer, seed=seed)[2] for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_a_stream_of_documents_may_be_endless(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(list(islice(packed_rows(cycle(["1 2 3"]), tokenizer, 8), 5))) == 5


def test_what_was_exchanged_is_not_kept(tokenizer: PreTrainedTokenizerFast) -> None:
    """The loss of a step once was a view of the whole vector: a base of 1000 steps ended with 3.6 GB of gradients in each process."""
    vectors: list[weakref.ref[np.ndarray]] = []
    alive: list[int] = []

    def exchange(own: torch.Tensor) -> torch.Tensor:
        vector = own.numpy().copy()
        vectors.append(weakref.ref(vector))
        return torch.from_numpy(vector)  # which holds the array for as long as any view of it lives

    def count(report: PretrainStep) -> None:
        alive.append(sum(vector() is not None for vector in vectors))

    model = build_tiny_model(SMALL, tokenizer, seed=0)
    pretrain(model, tokenizer, cycle(["1 2 3"]), steps=6, rows=2, row_length=16, exchange=exchange, on_step=count)
    assert len(vectors) == 6 and max(alive) <= 1

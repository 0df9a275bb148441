"""Attention by one kernel over sequences of unequal lengths is that of padded buckets, values and gradients, whatever the pack."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.varlen import varlen_attn

from tests.tiny_models import random_samples, tiny_llama
from zero2r1.models.attention import PackedAttention
from zero2r1.models.varlen_attention import VarlenAttention, flash, pack_layout
from zero2r1.training.logprobs import completion_logprobs
from zero2r1.training.packing import pack

CPU = torch.device("cpu")


def by_hand(query, key, value, spans, scale):
    """A kernel one may read: each sequence alone, the last query at the last key."""
    share = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(share, dim=1), value.repeat_interleave(share, dim=1)
    outputs = []
    starts = zip(spans.queries.tolist(), spans.queries.tolist()[1:], spans.keys.tolist(), spans.keys.tolist()[1:], strict=False)
    for first, last, first_key, last_key in starts:
        q, k, v = query[first:last], key[first_key:last_key], value[first_key:last_key]
        assert len(q) <= spans.longest_queries and len(k) <= spans.longest_keys
        hidden = torch.ones(len(q), len(k), dtype=torch.bool).triu(len(k) - len(q) + 1)
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        outputs.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, float("-inf")).softmax(-1), v))
    return torch.cat(outputs)


@st.composite
def packs(draw):
    prompts = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    completions = sorted(draw(st.lists(st.integers(1, 30), max_size=8)), reverse=True)
    prompt_of = [draw(st.integers(0, len(prompts) - 1)) for _ in completions]
    return prompts, completions, prompt_of, draw(st.sampled_from([0, 3]))


@settings(deadline=None, max_examples=25)
@given(packed=packs(), kv_heads=st.sampled_from([1, 2, 4]), seed=st.integers(0, 2**32 - 1))
def test_values_and_gradients_equal_those_of_buckets(packed, kv_heads, seed):
    prompts, completions, prompt_of, padding = packed
    tokens, generator = sum(prompts) + sum(completions) + padding, torch.Generator().manual_seed(seed)
    inputs = [
        torch.randn(tokens, heads, 8, dtype=torch.float64, generator=generator, requires_grad=True) for heads in (4, kv_heads, kv_heads)
    ]
    asked = torch.randn(tokens, 4, 8, dtype=torch.float64, generator=generator)
    asked[tokens - padding :] = 0
    found = []
    for layout in (
        VarlenAttention(prompts, completions, prompt_of, padding=padding, device=CPU, kernel=by_hand),
        PackedAttention(prompts, completions, prompt_of, padding=padding, device=CPU),
    ):
        output = layout.attend(0, *inputs, 0.3)
        found.append((output, *torch.autograd.grad((output * asked).sum(), inputs)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_model_computes_the_same_with_either(checkpointing):
    model = tiny_llama(dtype=torch.float64).train(checkpointing)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    batch = pack(random_samples([4, 3, 2], longest=20), device=CPU, dtype=torch.float64, round_to=16)
    lengths = [len(sample.prompt_ids) for sample in {s.group: s for s in batch.samples}.values()]
    group_index = {group: i for i, group in enumerate({s.group: s for s in batch.samples})}
    prompt_of = [group_index[sample.group] for sample in batch.samples]
    padding = len(batch.input_ids) - sum(lengths) - sum(batch.lengths)
    varlen = VarlenAttention(lengths, batch.lengths, prompt_of, padding=padding, device=CPU, kernel=by_hand)
    results = []
    for layout in (varlen, batch.layout):
        model.zero_grad()
        logprobs, _ = completion_logprobs(model, dataclasses.replace(batch, layout=layout))
        (logprobs * batch.weights).sum().backward()
        results.append([logprobs.detach(), *(p.grad.clone() for p in model.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)


def test_a_prompts_gradient_is_added_up_in_float32():
    """600 completions send it 1 each; a running sum in bfloat16 stops at 256, where 1 is half of the last digit."""

    def first_value(query, key, value, spans, scale):
        return query * 0 + value[spans.keys[:-1].long()]  # each sequence has one query here

    layout = VarlenAttention([1], [1] * 600, [0] * 600, device=CPU, kernel=first_value)
    inputs = [torch.ones(601, 1, 8, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    layout.attend(0, *inputs, 1.0).sum().backward()
    assert inputs[2].grad[0].tolist() == [[600.0] * 8]  # 601 rounded to bfloat16: 600 (steps of 4 from 512 on)


def test_heads_that_the_kernel_does_not_take_are_left_to_buckets():
    def refuses(*_):
        raise AssertionError("the kernel was called")

    layout = VarlenAttention([2], [3], [0], device=CPU, kernel=refuses)
    q = torch.randn(5, 2, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layout.attend(0, q, q, q, 1.0), PackedAttention([2], [3], [0], device=CPU).attend(0, q, q, q, 1.0))
    with pytest.raises(AssertionError, match="was called"):
        layout.attend(0, q[..., :8], q[..., :8], q[..., :8], 1.0)


@pytest.mark.parametrize("half", [False, True])
def test_a_cpu_keeps_to_buckets(half):
    assert type(pack_layout([2], [3], [0], device=CPU, half=half)) is PackedAttention


def test_torchs_function_is_called_by_names_it_has(monkeypatch):
    """Nothing here can run it; its signature is here."""
    called = {}
    signature = inspect.signature(varlen_attn)

    def recorded(*args, **kwargs):
        called.update(signature.bind(*args, **kwargs).arguments)
        return args[0]

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", recorded)
    for groups in (True, False):
        monkeypatch.setattr("zero2r1.models.varlen_attention._knows_groups", lambda groups=groups: groups)
        layout = VarlenAttention([2, 3], [4, 1], [1, 0], device=CPU, kernel=flash)
        q, k = torch.zeros(10, 4, 8, dtype=torch.bfloat16), torch.zeros(10, 2, 8, dtype=torch.bfloat16)
        layout.attend(0, q, k, k, 0.5)
        assert called["window_size"] == (-1, 0) and called["scale"] == 0.5 and (called["max_q"], called["max_k"]) == (4, 7)
        # Prompts of 2 and 3, then 3 + 4 and 2 + 1 keys.
        assert called["cu_seq_q"].tolist() == [0, 2, 5, 9, 10] and called["cu_seq_k"].tolist() == [0, 2, 5, 12, 15]
        assert called["key"].shape[1] == (2 if groups else 4)

"""The torch engine: what it samples, that it samples exactly, and how much work it does for it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import torch

from tests.tiny_models import tiny_llama, tiny_qwen
from zero2r1.grpo.update import fix_logprobs
from zero2r1.models.loading import load_policy, stop_token_ids
from zero2r1.rollout.engine import Request, SamplingParams, generate
from zero2r1.rollout.sampling import inverse_cdf, keep_top, sample_tokens
from zero2r1.rollout.torch_engine import TorchEngine
from zero2r1.training.config import ComputeSettings
from zero2r1.types import TrainingSample

PARAMS = SamplingParams(max_new_tokens=24, stop_token_ids=(1, 2))


def words(ids):
    return " ".join(map(str, ids))


def requests(count=6, group=4, params=PARAMS, forced=()):
    return [
        Request(
            id=i,
            prompt_ids=tuple(3 + k % 61 for k in range(i, 5 + 2 * i if i < 40 else i + 20)),
            seeds=tuple(100 * i + j for j in range(group)),
            params=params,
            forced_ids=forced,
        )
        for i in range(count)
    ]


def samples_of(asked, answered):
    return [
        TrainingSample(
            group=r.id,
            prompt_ids=r.prompt_ids,
            completion_ids=c.token_ids,
            weights=(1.0,) * len(c.token_ids),
            advantage=1.0,
            sampler_logprobs=c.logprobs,
        )
        for r, group in zip(asked, answered, strict=True)
        for c in group
    ]


@pytest.mark.parametrize("build", [tiny_llama, tiny_qwen])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sampler_and_trainer_agree_on_every_token_eos_included(build, temperature):
    model = build()
    asked = requests(100, 8, SamplingParams(max_new_tokens=24, stop_token_ids=(1, 2), temperature=temperature))
    answered = generate(TorchEngine(model, words), asked)
    tokens, gap = largest_gap(model, samples_of(asked, answered), temperature)
    assert tokens >= 10_000
    assert gap <= 1e-5
    assert sum(c.finish_reason == "stop" for group in answered for c in group) > 100


def largest_gap(model, samples, temperature=1.0):
    """(tokens, largest difference of sampler and trainer log-probabilities)."""
    compute = ComputeSettings(tokens_per_micro_batch=4096)
    packs = fix_logprobs(samples, model, None, temperature=temperature, old="scored", settings=compute)
    gaps = torch.cat([(fixed.old_logprobs - fixed.batch.sampler_logprobs).abs() for fixed in packs])
    return len(gaps), gaps.max().item()


@pytest.mark.slow
def test_the_135m_model_agrees_with_its_trainer_too():
    folder = Path(os.environ.get("ZERO2R1_CACHE", Path.home() / ".cache" / "zero2r1")) / "smollm2-135m-instruct"
    if not folder.is_dir():
        pytest.skip("SmolLM2 is not here: make smollm2")
    policy, tokenizer = load_policy(folder, device=torch.device("cpu"))
    things = "a fox,a harbour,the winter,an old clock,two sisters,the desert,a lighthouse,bread,a train,the moon,a garden,rain,a mask,glass"
    openings = [f"Once upon a time there was a long story about {thing}, and it began like this:" for thing in things.split(",")]
    ids = [tuple(tokenizer(text)["input_ids"]) for text in openings]
    params = SamplingParams(max_new_tokens=160, stop_token_ids=stop_token_ids(policy, tokenizer))
    asked = [Request(id=i, prompt_ids=p, seeds=tuple(range(10 * i, 10 * i + 8)), params=params) for i, p in enumerate(ids)]
    tokens, gap = largest_gap(policy, samples_of(asked, generate(TorchEngine(policy, words), asked)))
    print(f"{tokens} tokens, largest difference {gap:.2e}")
    assert tokens >= 10_000
    assert gap <= 5e-5


def test_same_seed_and_composition_give_the_same_bytes():
    model = tiny_llama()
    assert generate(TorchEngine(model, words), requests()) == generate(TorchEngine(model, words), requests())


@pytest.mark.parametrize("count", [40, pytest.param(1250, marks=pytest.mark.slow)])
def test_a_sample_changes_with_the_batch_only_where_rounding_decides(count):
    """320 completions here, 10,000 in the slow set."""
    model = tiny_llama()
    asked = [dataclasses.replace(r, prompt_ids=r.prompt_ids[:60]) for r in requests(count, 8)]
    together = generate(TorchEngine(model, words), asked)
    crowded = generate(TorchEngine(model, words, max_rows=5 if count == 40 else 37), asked)
    for ask, first, second in zip(asked, together, crowded, strict=True):
        for seed, a, b in zip(ask.seeds, first, second, strict=True):
            if a.token_ids != b.token_ids:
                assert cdf_gap(model, ask, seed, a.token_ids, b.token_ids) < 1e-5


def cdf_gap(model, ask, seed, first, second):
    """Distance of the uniform number from the border between the two tokens that were drawn at the first difference."""
    from zero2r1.rollout.sampling import uniforms

    at = next(i for i, (x, y) in enumerate(zip(first, second, strict=False)) if x != y)
    logits = model(input_ids=torch.tensor([ask.prompt_ids + first[:at]])).logits[0, -1].double()
    cdf = logits.softmax(-1).cumsum(-1)
    u = uniforms(seed, ask.params.max_new_tokens)[at]
    return (cdf - u).abs().min().item()


def test_a_prompt_is_computed_once_for_its_group():
    engine = TorchEngine(tiny_llama(), words, max_rows=3)
    generate(engine, requests(6, 4))
    assert engine.prefills == 6


def test_finished_rows_cost_nothing():
    engine = TorchEngine(tiny_llama(), words)
    answered = generate(engine, requests(6, 4))
    tokens = sum(len(c.token_ids) for group in answered for c in group)
    assert engine.decoded_rows == tokens - 24  # the first token of each of the 24 samples comes from the prompt's pass


def test_the_token_budget_bounds_the_cache():
    engine = TorchEngine(tiny_llama(), words, token_budget=128)
    answered = generate(engine, requests(6, 4))
    assert engine._rows.cache.rows * engine._rows.cache.positions <= 128
    assert all(len(group) == 4 for group in answered)


def test_a_longer_request_waits_for_a_larger_cache_and_is_served():
    engine = TorchEngine(tiny_llama(), words)
    short = generate(engine, requests(2, 2))
    long = Request(id=9, prompt_ids=tuple(range(3, 60)), seeds=(7,), params=SamplingParams(max_new_tokens=200, stop_token_ids=(1,)))
    engine.submit([*requests(2, 2), long])
    served = list(engine.stream())
    assert {f.request_id for f in served} == {0, 1, 9}
    again = [f.completion.token_ids for f in sorted(served, key=lambda f: (f.request_id, f.index))]
    assert again[:2] == [completion.token_ids for completion in short[0]]
    assert len(again[-1]) > 24


def test_every_stop_id_ends_a_completion_and_is_part_of_it():
    answered = generate(TorchEngine(tiny_llama(), words), requests(20, 8))
    flat = [c for group in answered for c in group]
    assert {c.token_ids[-1] for c in flat if c.finish_reason == "stop"} == {1, 2}
    for c in flat:
        assert (c.finish_reason == "stop") == (c.token_ids[-1] in (1, 2))
        assert c.finish_reason == "stop" or len(c.token_ids) == 24
        assert not {1, 2} & set(c.token_ids[:-1])
        shown = c.token_ids[:-1] if c.finish_reason == "stop" else c.token_ids
        assert c.text == words(shown)


def test_forced_tokens_open_the_completion_outside_the_loss_mask():
    answered = generate(TorchEngine(tiny_llama(), words), requests(2, 3, forced=(5, 6)))
    plain = generate(
        TorchEngine(tiny_llama(), words),
        [Request(id=r.id, prompt_ids=(*r.prompt_ids, 5, 6), seeds=r.seeds, params=r.params) for r in requests(2, 3)],
    )
    for forced, free in zip((c for g in answered for c in g), (c for g in plain for c in g), strict=True):
        assert forced.token_ids == (5, 6, *free.token_ids)
        assert forced.loss_mask == (False, False, *[True] * len(free.token_ids))
        assert forced.text == words((5, 6)) + (" " + free.text if free.text else "")


def test_greedy_is_the_most_likely_continuation():
    model = tiny_llama()
    ask = [Request(id=0, prompt_ids=(3, 4, 5), seeds=(0,), params=SamplingParams(max_new_tokens=6, stop_token_ids=(), temperature=0))]
    ((answer,),) = generate(TorchEngine(model, words), ask)
    ids = [3, 4, 5]
    for _ in range(6):
        ids.append(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item())
    assert answer.token_ids == tuple(ids[3:]) and answer.finish_reason == "length"


def test_sampling_follows_the_distribution():
    logits = torch.tensor([0.1, 0.2, 0.7]).log().expand(20_000, 3)
    uniform = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens, logprobs = sample_tokens(logits, torch.ones(20_000), uniform)
    share = torch.bincount(tokens, minlength=3) / 20_000
    assert (share - torch.tensor([0.1, 0.2, 0.7])).abs().max() < 0.01  # 3 standard errors
    torch.testing.assert_close(logprobs, logits[0][tokens])


def test_inverse_cdf_by_hand():
    # Cumulative: 0.5, 0.5, 0.75, 1.0; a token of probability 0 is never drawn, not even at its border.
    p = torch.tensor([0.5, 0.0, 0.25, 0.25]).expand(6, 4)
    u = torch.tensor([0.0, 0.49, 0.5, 0.74, 0.75, 1 - 1e-12], dtype=torch.float64)
    assert inverse_cdf(p, u).tolist() == [0, 0, 2, 2, 3, 3]


def test_inverse_cdf_crosses_blocks_and_never_leaves_the_vocabulary():
    p = torch.zeros(3, 600)
    p[:, 255], p[:, 256], p[:, 599] = 0.25, 0.25, 0.5
    u = torch.tensor([0.1, 0.3, 1 - 1e-16], dtype=torch.float64)
    assert inverse_cdf(p, u).tolist() == [255, 256, 599]


def test_top_k_and_top_p_keep_the_most_likely_tokens():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert keep_top(logits, 1.0, 2).isfinite().tolist() == [[True, True, False, False]]
    assert keep_top(logits, 0.8, None).isfinite().tolist() == [[True, True, False, False]]
    assert keep_top(logits, 0.81, None).isfinite().tolist() == [[True, True, True, False]]
    assert not SamplingParams(max_new_tokens=1, stop_token_ids=(), top_p=0.9).whole_distribution


def test_a_request_over_the_context_is_refused_before_any_work():
    engine = TorchEngine(tiny_llama(), words)
    with pytest.raises(ValueError, match="exceed the model's context of 1024"):
        engine.submit([Request(id=0, prompt_ids=(3,), seeds=(0,), params=SamplingParams(max_new_tokens=2000, stop_token_ids=()))])


def test_new_weights_change_the_samples_and_their_version():
    engine = TorchEngine(tiny_llama(), words)
    before = generate(engine, requests(1, 1))[0][0]
    engine.load_weights(tiny_llama(seed=1).state_dict(), 7)
    after = generate(engine, requests(1, 1))[0][0]
    assert (before.policy_version, after.policy_version) == (0, 7)
    assert before.token_ids != after.token_ids


def test_the_nucleus_is_cut_from_the_tempered_distribution():
    """As transformers and vLLM do it: at a low temperature fewer tokens share the mass."""
    model = tiny_llama()
    params = SamplingParams(max_new_tokens=1, stop_token_ids=(1,), temperature=0.5, top_p=0.6)
    ask = Request(id=0, prompt_ids=(5, 6, 7), seeds=tuple(range(400)), params=params)
    drawn = {c.token_ids[0] for c in generate(TorchEngine(model, words), [ask])[0]}
    logits = model(input_ids=torch.tensor([ask.prompt_ids])).logits[0, -1]
    nuclei = []
    for temperature in (0.5, 1.0):
        ordered = (logits / temperature).softmax(-1).sort(descending=True)
        before = ordered.values.cumsum(-1) - ordered.values
        nuclei.append(set(ordered.indices[before < 0.6].tolist()))
    assert drawn == nuclei[0] and len(nuclei[0]) < len(nuclei[1])

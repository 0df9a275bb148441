"""Padded decoding from a twin of the model: the same samples as by exact steps, whatever the buckets and whoever joins or leaves."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.rollout.test_torch_engine import PARAMS, requests, words
from tests.tiny_models import tiny_llama, tiny_qwen
from zero2r1.models.adapters import adapter_parameters, add_lora, merge_adapters
from zero2r1.models.twin import Twin
from zero2r1.rollout.decoding import Bucket, StaticState, bucket_of, can_be_captured, decode_step
from zero2r1.rollout.engine import Request, SamplingParams, generate
from zero2r1.rollout.kv_cache import KVCache
from zero2r1.rollout.rows import Rows
from zero2r1.rollout.sampling import sample_tokens, sample_unasked
from zero2r1.rollout.torch_engine import TorchEngine

CPU = torch.device("cpu")


def assert_same(found, expected, *, within):
    for ours, theirs in zip((c for group in found for c in group), (c for group in expected for c in group), strict=True):
        assert ours.token_ids == theirs.token_ids and ours.finish_reason == theirs.finish_reason and ours.text == theirs.text
        for mine, other in zip(ours.segments, theirs.segments, strict=True):
            assert (mine.logprobs is None) == (other.logprobs is None)
            if mine.logprobs is not None:
                torch.testing.assert_close(torch.tensor(mine.logprobs), torch.tensor(other.logprobs), atol=within, rtol=within)


CASES = {
    "plain": requests(20, 4),
    "forced": requests(5, 3, forced=(5, 6)),
    "greedy": requests(6, 2, SamplingParams(max_new_tokens=24, stop_token_ids=(1,), temperature=0)),
    "tempered": requests(6, 4, SamplingParams(max_new_tokens=100, stop_token_ids=(1, 2, 3), temperature=0.7)),
    "nucleus": requests(6, 4, SamplingParams(max_new_tokens=24, stop_token_ids=(1,), top_p=0.8, top_k=20)),
    "all of them": [
        Request(id=10 * kind + i, prompt_ids=tuple(range(3, 5 + i + kind)), seeds=(i, i + 9), params=params)
        for i in range(3)
        for kind, params in enumerate(
            (
                PARAMS,
                SamplingParams(max_new_tokens=90, stop_token_ids=(1,), temperature=0.8),
                SamplingParams(max_new_tokens=9, stop_token_ids=(), temperature=0),
                SamplingParams(max_new_tokens=12, stop_token_ids=(2,), top_p=0.7),
            )
        )
    ],
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("max_rows", [256, 5])
@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-6), (torch.float32, 5e-6)])
def test_padded_steps_give_the_samples_of_exact_ones(name, max_rows, dtype, within):
    """Logits are rounded to float32 either way: 1e-6. In float32 the sums before them are in another order as well."""
    model = tiny_llama(dtype=dtype)
    engines = [TorchEngine(model, words, max_rows=max_rows, resident=resident) for resident in (True, False)]
    found, expected = (generate(engine, CASES[name]) for engine in engines)
    assert_same(found, expected, within=within)
    assert engines[0].decoded_rows == engines[1].decoded_rows and engines[0].prefills == engines[1].prefills


def test_a_shape_of_a_step_is_one_of_a_few():
    seen = []
    engine = TorchEngine(tiny_llama(), words, resident=True)

    def watched(forward, state, bucket):
        seen.append((state.rows.active, state.rows.longest + 1, bucket))
        decode_step(forward, state, bucket)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zero2r1.rollout.decoding.decode_step", watched)
        generate(engine, requests(20, 4, SamplingParams(max_new_tokens=150, stop_token_ids=(1,))))
    assert all(active <= bucket.rows < 2 * active + 1 and longest <= bucket.positions for active, longest, bucket in seen)
    assert len({bucket for _, _, bucket in seen}) < len({(active, longest) for active, longest, _ in seen}) / 3


def test_buckets_by_hand():
    def of(rows, positions):
        return bucket_of(rows, positions, most_rows=100, most_positions=1000)

    assert [of(n, 1).rows for n in (1, 2, 3, 4, 5, 33, 64, 65, 100)] == [1, 2, 4, 4, 8, 64, 64, 100, 100]
    assert [of(1, n).positions for n in (1, 64, 65, 96, 97, 128, 129, 200, 700, 800)] == [64, 64, 96, 96, 128, 128, 192, 256, 768, 1000]


@given(rows=st.integers(1, 300), positions=st.integers(1, 5000))
def test_a_bucket_holds_what_it_is_for_and_never_more_than_there_is(rows, positions):
    bucket = bucket_of(rows, positions, most_rows=300, most_positions=5000)
    assert rows <= bucket.rows <= min(300, 2 * rows) and positions <= bucket.positions <= min(5000, max(64, positions * 3 // 2))


def test_rows_beyond_the_active_ones_touch_no_other_row():
    """Row 0 is at the last position of the cache; rows 1 and 2 were left full, by whoever had them: a write at their lengths would be
    out of bounds, into the next row of the layer."""
    model = tiny_llama()
    rows = Rows(KVCache(model, rows=3, positions=64), CPU)
    keys = torch.randn(2, 2, 63, 8, generator=torch.Generator().manual_seed(0))
    rows.start(Request(id=0, prompt_ids=(3,), seeds=(0,), params=PARAMS), 0, keys, keys)
    rows.lengths[1:], rows.counts[1:], rows.last_tokens[1:] = 64, 64, 63
    rows.cache.keys[:, 1:], rows.cache.values[:, 1:] = 7.0, 7.0
    sampled = TorchEngine(model, words, resident=True)._sampled
    state = StaticState(rows)
    state.active.fill_(1)
    with torch.inference_mode():
        decode_step(sampled, state, Bucket(3, 64))
    assert torch.equal(rows.cache.keys[:, 0, :, :63], keys) and bool((rows.cache.keys[:, 0, :, 63] != 0).all())
    assert bool((rows.cache.keys[:, 1:, :, 1:] == 7.0).all())  # only their first place is written
    assert rows.lengths.tolist() == [64, 0, 0] and rows.counts.tolist() == [1, 0, 0]


def test_what_a_captured_step_runs_asks_nothing_of_the_device(monkeypatch):
    """On a GPU every one of these would wait for the device, and break a capture."""
    asked = []

    def watch(name, original):
        def watched(self, *args):
            asked.append(name)
            return original(self, *args)

        monkeypatch.setattr(torch.Tensor, name, watched)

    for name in ("__bool__", "__int__", "__float__", "item", "tolist", "nonzero", "cpu", "numpy"):
        watch(name, getattr(torch.Tensor, name))
    model = tiny_llama()
    rows = Rows(KVCache(model, rows=2, positions=64), CPU)
    prompt = torch.zeros(2, 2, 3, 8)
    rows.start(Request(id=0, prompt_ids=(3,), seeds=(0,), params=PARAMS), 0, prompt, prompt)
    sampled, state = TorchEngine(model, words, resident=True)._sampled, StaticState(rows)
    state.active.fill_(1)
    with torch.inference_mode():
        asked.clear()
        decode_step(sampled, state, Bucket(2, 64))
        assert asked == []
        sample_tokens(torch.zeros(1, 8), torch.ones(1), torch.zeros(1, dtype=torch.float64))
    assert asked == ["__bool__", "__bool__"]  # the watch works: the ordinary sampler asks twice


def test_the_sampler_that_asks_nothing_gives_the_same_bits():
    generator = torch.Generator().manual_seed(0)
    logits, uniform = torch.randn(64, 700, generator=generator) * 4, torch.rand(64, dtype=torch.float64, generator=generator)
    mixed = torch.tensor([0.0, 0.6, 1.0, 1.3]).repeat(16)
    for temperatures in (torch.ones(64), torch.zeros(64), mixed):
        for ours, theirs in zip(sample_unasked(logits, temperatures, uniform), sample_tokens(logits, temperatures, uniform), strict=True):
            assert torch.equal(ours, theirs)


# The twin


def test_a_twin_in_float32_shares_every_tensor_and_copies_none():
    model = tiny_qwen().train()
    twin = Twin(model, half=False)
    assert [p.data_ptr() for p in twin.model.parameters()] == [p.data_ptr() for p in model.parameters()]
    assert model.training and not twin.model.training and not any(module.training for module in twin.model.modules())


@pytest.mark.parametrize("half_head", [True, False])
@pytest.mark.parametrize("build", [tiny_llama, tiny_qwen])
def test_a_twin_in_half_follows_its_source_in_place(build, half_head):
    model = build()
    twin = Twin(model, half=True, half_head=half_head)
    twin.refresh()
    addresses = {name: parameter.data_ptr() for name, parameter in twin.model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01
    twin.refresh()
    assert {name: parameter.data_ptr() for name, parameter in twin.model.named_parameters()} == addresses
    source = model.state_dict()
    for name, parameter in twin.model.state_dict().items():
        linear = name.endswith("_proj.weight") or name.endswith("_proj.bias") or (half_head and name == "lm_head.weight")
        assert parameter.dtype == (torch.bfloat16 if linear else torch.float32)
        assert torch.equal(parameter, source[name].to(parameter.dtype))


def test_a_twin_of_a_model_with_adapters_is_an_ordinary_model_with_their_sum():
    model = tiny_llama()
    add_lora(model, rank=2, alpha=4.0, targets=("q_proj", "down_proj"), seed=0)
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.normal_(generator=torch.Generator().manual_seed(1)).mul_(0.1)
    twin = Twin(model, half=False)
    twin.refresh()
    assert not any("lora" in name for name, _ in twin.model.named_parameters()) and not any(
        p.requires_grad for p in twin.model.parameters()
    )
    ids = torch.tensor([[3, 4, 5, 6]])
    torch.testing.assert_close(twin.model(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-5, rtol=1e-5)
    expected, engine = generate(TorchEngine(model, words), requests(6, 3)), TorchEngine(model, words, resident=True)
    assert_same(generate(engine, requests(6, 3)), expected, within=1e-5)
    merge_adapters(model)  # an engine that was made before samples the same model, not one with its adapters added twice
    assert_same(generate(engine, requests(6, 3)), expected, within=1e-5)


def test_every_stream_samples_the_weights_of_its_moment():
    model = tiny_llama()
    engine = TorchEngine(model, words, autocast=torch.bfloat16, resident=True)
    assert not engine.exact
    before = generate(engine, requests(4, 2))
    assert generate(engine, requests(4, 2)) == before
    model.load_state_dict(tiny_llama(seed=1).state_dict())
    after = generate(engine, requests(4, 2))
    assert after != before and after == generate(
        TorchEngine(tiny_llama(seed=1), words, autocast=torch.bfloat16, resident=True), requests(4, 2)
    )


def test_a_twin_in_half_samples_as_autocast_does():
    """The same roundings. With a head in half also its weight is rounded, by 2^-9 of it: of logits of about 5 a few hundredths."""
    model = tiny_llama()
    greedy = SamplingParams(max_new_tokens=1, stop_token_ids=(), temperature=0)
    asked = requests(30, 1, greedy)
    cast = generate(TorchEngine(model, words, autocast=torch.bfloat16, onednn=False), asked)

    def largest_gap(*, half_head: bool) -> float:
        twin = generate(TorchEngine(model, words, autocast=torch.bfloat16, resident=True, half_head=half_head), asked)
        return max(abs(a[0].segments[0].logprobs[0] - b[0].segments[0].logprobs[0]) for a, b in zip(twin, cast, strict=True))

    assert largest_gap(half_head=False) < 1e-6
    assert 1e-4 < largest_gap(half_head=True) < 0.05


def test_an_engine_ends_with_its_last_reference():
    """A cache of gigabytes must not wait for the collector of cycles."""
    gc.disable()
    try:
        engine = TorchEngine(tiny_llama(), words, resident=True)
        generate(engine, requests(2, 2))
        rows = weakref.ref(engine._rows)
        del engine
        assert rows() is None
    finally:
        gc.enable()


def test_rotary_embeddings_that_ask_for_the_longest_row_are_not_captured():
    config = tiny_llama().config
    assert can_be_captured(config)
    config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0}
    assert not can_be_captured(config)
    config.rope_parameters = {"full_attention": {"rope_type": "longrope"}, "sliding_attention": {"rope_type": "default"}}
    assert not can_be_captured(config)

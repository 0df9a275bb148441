"""The packed forward pass must be the ordinary one, computed with less work."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.tiny_models import random_samples, tiny_llama, tiny_qwen
from zero2r1.models.attention import use_packed_attention
from zero2r1.training.logprobs import chunked_logprobs, completion_logprobs
from zero2r1.training.packing import pack, split_into_packs
from zero2r1.types import TrainingSample

CPU = torch.device("cpu")


def one_by_one(model: torch.nn.Module, sample: TrainingSample, temperature: float = 1.0) -> torch.Tensor:
    """Log-probabilities by the class's own forward on the plain sequence."""
    ids = torch.tensor([sample.prompt_ids + sample.completion_ids])
    logits = model(input_ids=ids).logits[0] / temperature
    return logits.log_softmax(-1)[len(sample.prompt_ids) - 1 : -1].gather(-1, torch.tensor(sample.completion_ids)[:, None])[:, 0]


@pytest.mark.parametrize("build", [tiny_llama, tiny_qwen])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_packed_logprobs_equal_one_by_one(build, temperature):
    model = build()
    batch = pack(random_samples([3, 1, 5, 2]), device=CPU)
    packed, _ = completion_logprobs(model, batch, temperature=temperature)
    for sample, row in zip(batch.samples, packed.split(batch.lengths), strict=True):
        torch.testing.assert_close(row, one_by_one(model, sample, temperature), atol=1e-5, rtol=0)


def test_packed_gradient_equals_one_by_one_in_float64():
    model = tiny_llama(dtype=torch.float64)
    batch = pack(random_samples([4, 3]), device=CPU, dtype=torch.float64)
    (completion_logprobs(model, batch)[0] * batch.weights).sum().backward()
    packed = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    sum((one_by_one(model, s) * torch.tensor(s.weights, dtype=torch.float64)).sum() for s in batch.samples).backward()
    for ours, theirs in zip(packed, model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.grad, atol=1e-12, rtol=1e-10)


def test_long_completions_need_no_mask_and_give_the_same(monkeypatch):
    """Behind prompts of equal length a bucket is a causal square; values and gradients stay those of the masked form."""
    model = tiny_llama(dtype=torch.float64)
    samples = random_samples([4, 3, 2], longest=20)
    results = []
    for bound in (10_000, 3):  # all masked; all but the shortest causal
        monkeypatch.setattr("zero2r1.models.attention.LONG", bound)
        batch = pack(samples, device=CPU, dtype=torch.float64)
        model.zero_grad()
        logprobs, _ = completion_logprobs(model, batch)
        (logprobs * batch.weights).sum().backward()
        assert any(isinstance(mask, int) for _, _, mask in batch.layout._buckets) == (bound == 3)
        results.append((logprobs.detach(), [p.grad.clone() for p in model.parameters()]))
    torch.testing.assert_close(results[1][0], results[0][0], atol=1e-12, rtol=0)
    for causal, masked in zip(results[1][1], results[0][1], strict=True):
        torch.testing.assert_close(causal, masked, atol=1e-12, rtol=1e-10)


def test_no_mask_of_length_squared_is_made_for_long_completions():
    batch = pack(random_samples([2], longest=1200), device=CPU)
    longest = max(batch.lengths)
    assert longest > 512 and all(mask.numel() <= 512 * 600 for _, _, mask in batch.layout._buckets if not isinstance(mask, int))


def test_a_sample_does_not_see_its_neighbours():
    model = tiny_llama()
    samples = random_samples([3, 2])
    longest = max(range(len(samples)), key=lambda i: len(samples[i].completion_ids))
    changed = list(samples)
    changed[longest] = dataclasses.replace(
        samples[longest], completion_ids=tuple((token + 1) % 64 for token in samples[longest].completion_ids)
    )
    rows = []
    for version in (samples, changed):
        batch = pack(version, device=CPU)
        split = completion_logprobs(model, batch)[0].split(batch.lengths)
        rows.append({id(s.sampler_logprobs): row for s, row in zip(batch.samples, split, strict=True)})
    for i, sample in enumerate(samples):
        same = torch.equal(rows[0][id(sample.sampler_logprobs)], rows[1][id(sample.sampler_logprobs)])
        assert same == (i != longest)


def test_packs_respect_the_budget_and_lose_nothing():
    samples = random_samples([5, 4, 6, 1])
    packs = split_into_packs(samples, 40)
    assert [s for part in packs for s in part] == sorted(samples, key=lambda s: s.group)
    for part in packs:
        prompts = {s.group: len(s.prompt_ids) for s in part}
        assert sum(prompts.values()) + sum(len(s.completion_ids) for s in part) <= 40


def test_a_prompt_is_computed_once_per_pack():
    samples = random_samples([6])
    batch = pack(samples, device=CPU)
    assert len(batch.input_ids) == len(samples[0].prompt_ids) + sum(len(s.completion_ids) for s in samples)


def test_padding_tokens_change_no_logprob():
    model, samples = tiny_llama(), random_samples([3, 2])
    plain, padded = pack(samples, device=CPU), pack(samples, device=CPU, round_to=64)
    assert len(padded.input_ids) % 64 == 0 and len(plain.input_ids) % 64 != 0
    torch.testing.assert_close(completion_logprobs(model, plain)[0], completion_logprobs(model, padded)[0], atol=1e-6, rtol=0)


def test_different_prompts_in_one_group_are_refused():
    first, second = random_samples([2])
    with pytest.raises(ValueError, match="different prompts"):
        pack([first, dataclasses.replace(second, prompt_ids=(1, 2, 3, 4, 5, 6, 7))], device=CPU)


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("kept_rows", [0, 4, 100])
def test_chunked_logprobs_and_gradients_equal_log_softmax(chunk, temperature, kept_rows, monkeypatch):
    monkeypatch.setattr("zero2r1.training.logprobs.KEPT_BYTES", kept_rows * 11 * 8)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(11, (7,), generator=generator)
    scale = torch.randn(7, generator=generator, dtype=torch.float64)
    ours, entropy = chunked_logprobs(hidden, weight, targets, temperature=temperature, with_entropy=True, chunk=chunk)
    distribution = ((hidden @ weight.t()) / temperature).log_softmax(-1)
    theirs = distribution.gather(-1, targets[:, None])[:, 0]
    torch.testing.assert_close(ours, theirs, atol=1e-13, rtol=0)
    spread = -(distribution.exp() * distribution).sum(-1)
    torch.testing.assert_close(entropy, spread, atol=1e-13, rtol=0)
    for mine, other in (
        ((ours * scale).sum(), (theirs * scale).sum()),
        ((entropy * scale).sum(), (spread * scale).sum()),
        ((ours * scale + entropy).sum(), (theirs * scale + spread).sum()),
    ):
        expected = torch.autograd.grad(other, (hidden, weight), retain_graph=True)
        for got, want in zip(torch.autograd.grad(mine, (hidden, weight), retain_graph=True), expected, strict=True):
            torch.testing.assert_close(got, want, atol=1e-13, rtol=0)


def test_no_tensor_of_tokens_times_vocabulary_is_ever_made(monkeypatch):
    hidden, weight = torch.randn(50, 4, requires_grad=True), torch.randn(1000, 4)
    largest = 0
    original = torch.nn.functional.linear

    def watched(*args, **kwargs):
        nonlocal largest
        out = original(*args, **kwargs)
        largest = max(largest, out.numel())
        return out

    monkeypatch.setattr(torch.nn.functional, "linear", watched)
    logprobs, _ = chunked_logprobs(hidden, weight, torch.zeros(50, dtype=torch.long), chunk=8)
    logprobs.sum().backward()
    assert largest == 8 * 1000


@pytest.mark.parametrize(("kept_rows", "products"), [(0, 14), (16, 12), (50, 7)])
def test_probabilities_are_kept_as_far_as_there_is_room_and_the_rest_computed_again(kept_rows, products, monkeypatch):
    """50 rows in chunks of 8 are 7 products forward; two chunks of 8 fit into 16 rows."""
    monkeypatch.setattr("zero2r1.training.logprobs.KEPT_BYTES", kept_rows * 1000 * 4)
    hidden, weight = torch.randn(50, 4, requires_grad=True), torch.randn(1000, 4)
    count = 0
    original = torch.nn.functional.linear

    def counted(*args, **kwargs):
        nonlocal count
        count += 1
        return original(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "linear", counted)
    targets = torch.zeros(50, dtype=torch.long)
    chunked_logprobs(hidden, weight, targets, chunk=8)[0].sum().backward()
    assert count == products
    with torch.no_grad():
        chunked_logprobs(hidden, weight, targets, chunk=8)
    assert count == products + 7


def test_kept_probabilities_go_with_the_backward_pass_and_a_second_one_gives_the_same():
    """The graph outlives its pass wherever somebody holds the log-probabilities; up to 256 MiB must not."""
    hidden, weight = torch.randn(50, 4, requires_grad=True), torch.randn(1000, 4)
    logprobs, _ = chunked_logprobs(hidden, weight, torch.zeros(50, dtype=torch.long), chunk=8)
    node = logprobs.grad_fn
    assert len(node.kept) == 7
    (first,) = torch.autograd.grad(logprobs.sum(), hidden, retain_graph=True)
    assert not node.kept
    torch.testing.assert_close(torch.autograd.grad(logprobs.sum(), hidden)[0], first)


def test_temperature_zero_is_refused():
    with pytest.raises(ValueError, match="temperature must be > 0"):
        chunked_logprobs(torch.randn(1, 2), torch.randn(3, 2), torch.tensor([0]), temperature=0.0)


def test_ordinary_calls_of_a_prepared_model_still_mask_padding():
    prepared, plain = tiny_llama(), tiny_llama(packed=False)
    ids = torch.tensor([[0, 0, 5, 6, 7], [1, 2, 3, 4, 5]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    ours, theirs = (m(input_ids=ids, attention_mask=mask).logits for m in (prepared, plain))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_dropout_never_changes_a_logprob():
    """unsloth-zoo PR #832: with dropout active two passes over the same tokens differ, and no ratio is 1."""
    model = tiny_llama(packed=False)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
        layer.mlp.act_fn = torch.nn.Sequential(layer.mlp.act_fn, torch.nn.Dropout(0.5))
    use_packed_attention(model)
    model.train()
    batch = pack(random_samples([3, 2]), device=CPU)
    assert torch.equal(completion_logprobs(model, batch)[0], completion_logprobs(model, batch)[0])


def test_a_head_with_a_bias_is_refused():
    """The sampler would apply it and the chunked head would not: no ratio would be 1."""
    model = tiny_llama(packed=False)
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(64))
    with pytest.raises(ValueError, match="has a bias in its head"):
        use_packed_attention(model)

"""Small random models that the tests share. Float64 where a test asks for digits."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from zero2r1.models.attention import use_packed_attention
from zero2r1.types import TrainingSample


def tiny_llama(
    *, seed: int = 0, vocab: int = 64, kv_heads: int = 2, dtype: torch.dtype = torch.float32, packed: bool = True
) -> PreTrainedModel:
    """A 2-layer Llama, 4 heads of 8, weights large enough that its distributions are far from uniform."""
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        head_dim=8,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    return _prepared(LlamaForCausalLM, config, seed, dtype, packed)


def tiny_qwen(*, seed: int = 0, vocab: int = 64) -> PreTrainedModel:
    """A 2-layer Qwen2 with biases and tied embeddings: the other common shape."""
    config = Qwen2Config(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    return _prepared(Qwen2ForCausalLM, config, seed, torch.float32, True)


def _prepared(kind: type, config: object, seed: int, dtype: torch.dtype, packed: bool) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(config).eval()
    if dtype == torch.float64:
        _float64_norms(model)
        model.to(dtype)
    if packed:
        use_packed_attention(model)
    return model


def _float64_norms(model: PreTrainedModel) -> None:
    """The norms of transformers round to float32 inside, which would hide every digit beyond the seventh."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                norm = torch.nn.RMSNorm(child.weight.shape[0], eps=child.variance_epsilon, dtype=torch.float64)
                setattr(module, name, norm)


def random_samples(
    group_sizes: Sequence[int], *, seed: int = 0, vocab: int = 64, longest: int = 12, weight: float = 0.1
) -> list[TrainingSample]:
    """Groups of completions of unequal lengths with made-up advantages and sampler log-probabilities."""
    rng = random.Random(seed)
    samples = []
    for group, size in enumerate(group_sizes):
        prompt = tuple(rng.randrange(vocab) for _ in range(rng.randint(1, 9)))
        for _ in range(size):
            length = rng.randint(1, longest)
            samples.append(
                TrainingSample(
                    group=group,
                    prompt_ids=prompt,
                    completion_ids=tuple(rng.randrange(vocab) for _ in range(length)),
                    weights=(weight,) * length,
                    advantage=rng.uniform(-2, 2),
                    sampler_logprobs=tuple(-rng.uniform(1, 5) for _ in range(length)),
                )
            )
    return samples

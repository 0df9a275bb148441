"""From prompts and responses to what a gradient step sees: the loss is on the response alone, its stop token included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zero2r1.training.packing import split_into_packs
from zero2r1.types import TrainingSample


@dataclass(frozen=True, slots=True, kw_only=True)
class SftExample:
    """A prompt and the response to learn, think tags and stop token included. Example: the ids of ``User: 7+5? Assistant:``
    and of ``<think> ... </think> <answer> 12 </answer> <eos>``."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.prompt_ids or not self.response_ids:
            raise ValueError("an SFT example needs at least one prompt token and one response token")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Examples cut to a length, and what that cost."""

    examples: tuple[SftExample, ...]
    cut: int
    """Examples whose response lost its end, stop token included."""
    dropped: int
    """Examples whose prompt alone fills the length."""


def fit(examples: Sequence[SftExample], max_length: int) -> Fitted:
    """Cut responses so that prompt and response have at most ``max_length`` tokens; prompts stay whole.

    Raises:
        ValueError: nothing is left.
    """
    kept = [example for example in examples if len(example.prompt_ids) < max_length]
    if not kept:
        raise ValueError(f"none of {len(examples)} examples has a prompt of less than max_length = {max_length} tokens")
    fitted = [
        SftExample(prompt_ids=example.prompt_ids, response_ids=example.response_ids[: max_length - len(example.prompt_ids)])
        for example in kept
    ]
    cut = sum(len(new.response_ids) < len(old.response_ids) for new, old in zip(fitted, kept, strict=True))
    return Fitted(examples=tuple(fitted), cut=cut, dropped=len(examples) - len(kept))


def training_samples(examples: Sequence[SftExample]) -> list[TrainingSample]:
    """The examples of one update, every response token weighing one over their number: a mean over tokens, however they are packed."""
    tokens = sum(len(example.response_ids) for example in examples)
    return [
        TrainingSample(
            group=i,
            prompt_ids=example.prompt_ids,
            completion_ids=example.response_ids,
            weights=(1.0 / tokens,) * len(example.response_ids),
            advantage=0.0,
            sampler_logprobs=(0.0,) * len(example.response_ids),
        )
        for i, example in enumerate(examples)
    ]


def micro_batches(samples: Sequence[TrainingSample], *, packing: bool, tokens: int) -> list[list[TrainingSample]]:
    """The forward passes of one update: packs of up to so many tokens, or one example each."""
    return split_into_packs(samples, tokens) if packing else [[sample] for sample in samples]

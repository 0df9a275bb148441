"""Samples -> packs of tokens without padding, each group's prompt once (architecture decision 1).

Shapes: T packed tokens, C completion tokens of the pack, S samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

import torch
from torch import Tensor

from zero2r1.models.attention import AttentionLayout
from zero2r1.models.varlen_attention import pack_layout
from zero2r1.types import TrainingSample


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBatch:
    """One micro-batch. The C axis runs over completion tokens, sample after sample in the order of ``samples``."""

    samples: tuple[TrainingSample, ...]
    input_ids: Tensor  # [T]
    position_ids: Tensor  # [T]
    layout: AttentionLayout
    source: Tensor  # [C] the packed position whose hidden state predicts each completion token
    targets: Tensor  # [C] the token predicted there
    weights: Tensor  # [C]
    advantages: Tensor  # [C]
    sampler_logprobs: Tensor  # [C]
    segment_ids: Tensor  # [C] index into ``samples``

    @property
    def lengths(self) -> list[int]:
        """Completion tokens of each sample: splits a [C] tensor into samples."""
        return [len(sample.completion_ids) for sample in self.samples]


def split_into_packs(samples: Sequence[TrainingSample], token_budget: int) -> list[list[TrainingSample]]:
    """Cut samples into packs of at most ``token_budget`` tokens; samples of one group stay neighbours.

    A completion is never split. One that exceeds the budget alone makes a pack of its own.
    """
    packs: list[list[TrainingSample]] = []
    prompts_in_pack: set[int] = set()
    used = 0
    for sample in sorted(samples, key=lambda sample: sample.group):
        prompt = 0 if sample.group in prompts_in_pack else len(sample.prompt_ids)
        if not packs or used + prompt + len(sample.completion_ids) > token_budget:
            packs.append([])
            prompts_in_pack, used, prompt = set(), 0, len(sample.prompt_ids)
        packs[-1].append(sample)
        prompts_in_pack.add(sample.group)
        used += prompt + len(sample.completion_ids)
    return packs


def pack(
    samples: Sequence[TrainingSample],
    *,
    device: torch.device,
    round_to: int = 1,
    dtype: torch.dtype = torch.float32,
    half: bool = False,
) -> PackedBatch:
    """Lay samples out as one row of tokens.

    Args:
        samples: at least one; equal ``group`` means equal prompt.
        round_to: pad the row to a multiple of this many tokens, which some kernels like.
        dtype: of weights, advantages and log-probabilities.
        half: the model's pass will be in bfloat16, for which a GPU has an attention of its own.
    """
    ordered = tuple(sorted(samples, key=lambda sample: -len(sample.completion_ids)))
    prompts: dict[int, tuple[int, ...]] = {}
    for sample in ordered:
        if prompts.setdefault(sample.group, sample.prompt_ids) != sample.prompt_ids:
            raise ValueError(f"samples of group {sample.group} have different prompts")
    prompt_index = {group: i for i, group in enumerate(prompts)}
    prompt_of = [prompt_index[sample.group] for sample in ordered]
    prompt_lengths = [len(ids) for ids in prompts.values()]
    lengths = [len(sample.completion_ids) for sample in ordered]

    prompt_ends = list(accumulate(prompt_lengths))
    starts = [prompt_ends[-1] + before for before in accumulate(lengths[:-1], initial=0)]
    used = prompt_ends[-1] + sum(lengths)
    padding = -used % round_to
    positions = [*(range(n) for n in prompt_lengths)]
    positions += [range(prompt_lengths[p], prompt_lengths[p] + n) for p, n in zip(prompt_of, lengths, strict=True)]
    source = [(prompt_ends[p] - 1, *range(start, start + n - 1)) for p, start, n in zip(prompt_of, starts, lengths, strict=True)]
    ids = [*prompts.values(), *(sample.completion_ids for sample in ordered), (0,) * padding]

    def token_axis(values: Sequence[Sequence[float]], kind: torch.dtype) -> Tensor:
        return torch.tensor(list(chain.from_iterable(values)), dtype=kind).to(device)

    sample_lengths = torch.tensor(lengths, device=device)
    advantages = torch.tensor([sample.advantage for sample in ordered], dtype=dtype, device=device)
    return PackedBatch(
        samples=ordered,
        input_ids=token_axis(ids, torch.long),
        position_ids=token_axis([*positions, (0,) * padding], torch.long),
        layout=pack_layout(prompt_lengths, lengths, prompt_of, padding=padding, device=device, half=half),
        source=token_axis(source, torch.long),
        targets=token_axis([sample.completion_ids for sample in ordered], torch.long),
        weights=token_axis([sample.weights for sample in ordered], dtype),
        advantages=advantages.repeat_interleave(sample_lengths),
        sampler_logprobs=token_axis([sample.sampler_logprobs for sample in ordered], dtype),
        segment_ids=torch.arange(len(ordered), device=device).repeat_interleave(sample_lengths),
    )

"""Examples -> one row of tokens without padding, each prompt once -> scores.

Shapes: T packed tokens, S responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zero2r1.models.attention import AttentionLayout
from zero2r1.models.reward_head import packed_scores
from zero2r1.models.varlen_attention import pack_layout
from zero2r1.reward_models.encoding import RewardExample
from zero2r1.training.config import ComputeSettings
from zero2r1.training.step import training_context

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardBatch:
    """One forward pass. The S axis runs over responses, example after example in the order given."""

    input_ids: Tensor  # [T]
    position_ids: Tensor  # [T]
    layout: AttentionLayout
    last: Tensor  # [S] the packed position of each response's last token


def split_into_packs(examples: Sequence[RewardExample], token_budget: int) -> list[list[RewardExample]]:
    """Neighbouring examples of at most ``token_budget`` tokens together; one that exceeds it makes a pack of its own."""
    packs: list[list[RewardExample]] = []
    used = 0
    for example in examples:
        if not packs or used + example.tokens > token_budget:
            packs.append([])
            used = 0
        packs[-1].append(example)
        used += example.tokens
    return packs


def pack(examples: Sequence[RewardExample], *, device: torch.device, half: bool = False) -> RewardBatch:
    """Lay examples out as one row of tokens: all prompts, then all responses, the longest first. ``half``: for a pass in bfloat16."""
    responses = [(prompt, ids) for prompt, example in enumerate(examples) for ids in example.response_ids]
    order = sorted(range(len(responses)), key=lambda i: -len(responses[i][1]))
    prompt_lengths = [len(example.prompt_ids) for example in examples]
    prompt_of, lengths = [responses[i][0] for i in order], [len(responses[i][1]) for i in order]
    ends = list(accumulate(lengths, initial=sum(prompt_lengths)))[1:]
    last = [0] * len(order)
    for i, end in zip(order, ends, strict=True):
        last[i] = end - 1
    ids = chain(*(example.prompt_ids for example in examples), *(responses[i][1] for i in order))
    positions = chain(
        *(range(n) for n in prompt_lengths),
        *(range(prompt_lengths[p], prompt_lengths[p] + n) for p, n in zip(prompt_of, lengths, strict=True)),
    )
    return RewardBatch(
        input_ids=torch.tensor(list(ids), device=device),
        position_ids=torch.tensor(list(positions), device=device),
        layout=pack_layout(prompt_lengths, lengths, prompt_of, device=device, half=half),
        last=torch.tensor(last, device=device),
    )


def batch_scores(model: PreTrainedModel, examples: Sequence[RewardExample], compute: ComputeSettings) -> Tensor:
    """Scores [S] of all responses of the examples in one forward pass, with gradient."""
    device = next(model.parameters()).device
    batch = pack(examples, device=device, half=compute.half)
    with training_context(model, compute, device):
        return packed_scores(model, batch.input_ids, batch.position_ids, batch.layout, batch.last)


def score_examples(model: PreTrainedModel, examples: Sequence[RewardExample], compute: ComputeSettings) -> list[tuple[float, ...]]:
    """The scores of every example's responses. Equal responses to equal prompts are computed once, so their scores are the same bytes."""
    wanted: dict[tuple[int, ...], dict[tuple[int, ...], float]] = {}
    for example in examples:
        wanted.setdefault(example.prompt_ids, {}).update(dict.fromkeys(example.response_ids, 0.0))
    unique = [RewardExample(prompt_ids=prompt, response_ids=tuple(responses)) for prompt, responses in wanted.items()]
    unique.sort(key=lambda example: example.tokens)  # neighbours of similar length waste little in attention
    with torch.no_grad():
        for part in split_into_packs(unique, compute.tokens_per_micro_batch):
            scores = iter(batch_scores(model, part, compute).tolist())
            for example in part:
                wanted[example.prompt_ids].update(zip(example.response_ids, scores, strict=False))
    return [tuple(wanted[example.prompt_ids][ids] for ids in example.response_ids) for example in examples]

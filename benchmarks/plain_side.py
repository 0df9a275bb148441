"""One GRPO step as a plain loop over `transformers`: padded rows, ``generate``, whole logits. For where TRL cannot be imported."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from step_sides import ForcedLengths
from step_workload import BETA, EOS, LEARNING_RATE, PAD, UPDATES, Batch, Case, Clock


def run_plain(case: Case, folder: Path, batches: Sequence[Batch], dtype: str) -> Clock:
    """All steps: sample, log-probabilities of policy and reference, two updates over micro-batches of padded rows."""
    import torch
    from transformers import AutoModelForCausalLM

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    policy = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    reference = copy.deepcopy(policy).requires_grad_(False)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    clock = Clock()
    for batch in batches:
        clock.next_step()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            _step(case, batch, clock, (policy, reference, optimizer))
    clock.next_step()
    return clock


def _step(case: Case, batch: Batch, clock: Clock, models: tuple[Any, Any, Any]) -> None:
    import torch

    policy, reference, optimizer = models
    ids, mask, width = clock.timed("generate", _sampled)(case, batch, policy)
    rewards = torch.tensor(batch.rewards, device=ids.device).view(case.prompts, case.group)
    advantages = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)).flatten()
    rows = [slice(first, first + case.micro_batch) for first in range(0, case.outputs, case.micro_batch)]
    with torch.no_grad():
        old = [clock.timed("old_logprobs", _logprobs)(policy, ids[part], mask[part], width) for part in rows]
        ref = [clock.timed("ref_logprobs", _logprobs)(reference, ids[part], mask[part], width) for part in rows]
    parts = list(zip(rows, old, ref, strict=True))
    for update in range(UPDATES):
        mine = parts[update * len(parts) // UPDATES : (update + 1) * len(parts) // UPDATES]
        clock.timed("train", _update)(policy, optimizer, mine, (ids, mask, width, advantages))


def _sampled(case: Case, batch: Batch, policy: Any) -> tuple[Any, Any, int]:
    """Token ids and mask of prompts, padded on the left, with their completions; and the prompts' width."""
    import torch
    from transformers import LogitsProcessorList

    width = max(map(len, batch.prompts))
    prompts = [(PAD,) * (width - len(prompt)) + prompt for prompt in batch.prompts for _ in range(case.group)]
    ids = torch.tensor(prompts, device=policy.device)
    mask = (ids != PAD).long()
    forced = LogitsProcessorList([ForcedLengths(batch.lengths, prompt=width)])
    sampled = policy.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=case.cap, do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
        logits_processor=forced, eos_token_id=EOS, pad_token_id=PAD,
    )  # fmt: skip
    lengths = torch.tensor(batch.lengths, device=policy.device)
    drawn = torch.arange(sampled.shape[1] - width, device=policy.device) < lengths[:, None]
    return sampled, torch.cat((mask, drawn.long()), dim=1), width


def _logprobs(model: Any, ids: Any, mask: Any, width: int) -> Any:
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, width - 1 : -1].float()
    return logits.log_softmax(-1).gather(-1, ids[:, width:, None])[..., 0]


def _update(policy: Any, optimizer: Any, parts: Sequence[tuple[slice, Any, Any]], rollout: tuple[Any, Any, int, Any]) -> None:
    import torch

    ids, mask, width, advantages = rollout
    for part, old, ref in parts:
        drawn = mask[part, width:]
        logprobs = _logprobs(policy, ids[part], mask[part], width)
        ratio, gap = (logprobs - old).exp(), ref - logprobs
        clipped = ratio.clamp(0.8, 1.2)
        gain = torch.minimum(ratio * advantages[part, None], clipped * advantages[part, None])
        loss = ((BETA * (gap.exp() - gap - 1) - gain) * drawn).sum(1) / drawn.sum(1)
        (loss.mean() / len(parts)).backward()
    torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    float(loss.detach().sum())  # the clock stops when the device is done

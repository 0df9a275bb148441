"""Checks before any training: what the model will see, what ends an answer, whether the reward tells right from wrong.

Everything is computed on the real settings in a second or two; the result is text for the user and an error for what cannot work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from zero2r1.models.adapters import is_adapted
from zero2r1.pipeline.config import ZeroSettings
from zero2r1.pipeline.estimates import BFLOAT16, FLOAT32, HEAD_CHUNKS, RUNTIME
from zero2r1.pipeline.stage import Stage
from zero2r1.types import Completion, FinishReason, Problem, Reward, Segment

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHECKED = 20_000
READ_FOR_UNKNOWN, MOST_UNKNOWN = 500, 0.1
"""Training problems looked at; more would take longer than a preflight should."""
MOST_OF_DEVICE = 0.9
"""Of a GPU's memory: estimates err, and an allocator wastes some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """Lines to print, and what must be mended before training (empty: go ahead)."""

    lines: tuple[str, ...]
    faults: tuple[str, ...]


def preflight(stage: Stage, settings: ZeroSettings) -> Preflight:
    """Check a stage. Never trains, samples or writes."""
    world = stage.world
    if not world.train:
        return Preflight(lines=(), faults=("data.train is missing: name a file of problems to train on, e.g. --data.train=train.jsonl",))
    ids = stage.prompt_ids(world.train[0])
    pieces = stage.tokenizer.convert_ids_to_tokens(list(ids))
    longest = max(len(stage.prompt_ids(p)) for p in (*world.train[:CHECKED], *world.held_out[: settings.evaluation.problems]))
    stops = [f"{i} {stage.tokenizer.convert_ids_to_tokens(i)}" for i in stage.stops]
    probes = reward_probes(stage, settings, world.train[0])
    shown = " · ".join(f"{name} {'none' if r.value is None else format(r.value, '.2f')}" for name, r in probes.items())
    needed = memory_needed(stage.policy, settings, longest=longest, on_gpu=stage.policy.device.type == "cuda")
    room = device_room(stage.policy.device)
    lines = [
        f"data      {len(world.train)} problems to train on, {len(world.held_out)} held out; the longest prompt has {longest} tokens",
        f"prompt    {len(ids)} tokens: {' '.join(str(p) for p in pieces[:60])}{' ...' if len(pieces) > 60 else ''}",
        f"stops at  {', '.join(stops)}   (padding: {stage.tokenizer.pad_token})",
        f"batch     {_batch(settings)}",
        f"memory    about {needed / 2**30:.2f} GiB: weights, gradients, optimizer, reference, activations{_part_shown(stage.policy)}",
        f"reward    {shown}",
    ]
    if room is not None and needed > MOST_OF_DEVICE * room:
        lines.append(f"WARNING   {_too_small(needed, room, settings)}")
    share = _unknown_share(stage)
    if share > MOST_UNKNOWN:
        lines.append(
            f"WARNING   {share:.0%} of the prompts' tokens are unknown to this model ({stage.tokenizer.unk_token}): it cannot read these "
            "problems. The laptop's own models know the words of their small world only"
        )
    unreadable = _unreadable(stage)
    if unreadable:
        lines.append(
            f"reference {len(unreadable)} of {min(CHECKED, len(world.train))} cannot be read by their verifier; outputs to them are never "
            f"graded: {', '.join(unreadable[:3])}{' ...' if len(unreadable) > 3 else ''}"
        )
    faults = _faults(stage, settings, probes, longest)
    if room is not None and certain_memory(stage.policy, settings) > room:
        faults.append(_too_small(needed, room, settings))
    return Preflight(lines=tuple(lines), faults=tuple(faults))


def _batch(settings: ZeroSettings) -> str:
    """The arithmetic of a rollout in words."""
    rollout, parts = settings.rollout, settings.grpo.mini_batches
    outputs = rollout.prompts_per_rollout * rollout.group_size
    return (
        f"{rollout.prompts_per_rollout} prompts x {rollout.group_size} answers = {outputs} completions a rollout "
        f"= {parts} update{'s' if parts > 1 else ''} of {outputs // parts}; {settings.steps} steps = {-(-settings.steps // parts)} rollouts"
    )


def _unknown_share(stage: Stage) -> float:
    """Share of the prompts' tokens that stand for words the tokenizer does not know."""
    unknown = stage.tokenizer.unk_token_id
    ids = [i for problem in stage.world.train[:READ_FOR_UNKNOWN] for i in stage.prompt_ids(problem)]
    return 0.0 if unknown is None else ids.count(unknown) / max(1, len(ids))


def _unreadable(stage: Stage) -> list[str]:
    """Ids of training problems whose reference answer the accuracy reward cannot grade against."""
    grade = stage.world.accuracy_grader()
    problems = stage.world.train[:CHECKED]
    rewards = grade(problems, [_completion("", "stop")] * len(problems))
    return [problem.id for problem, reward in zip(problems, rewards, strict=True) if reward.value is None]


def reward_probes(stage: Stage, settings: ZeroSettings, problem: Problem) -> dict[str, Reward]:
    """The reward of a right, a wrong, an empty and a truncated answer, each in the wanted layout."""
    from zero2r1.rewards.extraction import reference_answer

    gold = reference_answer(problem.answer or "")
    wrong = "0" if gold.strip() != "0" else "1"
    texts = {
        "gold": (f"<think> {gold} </think> <answer> {gold} </answer>", "stop"),
        "wrong": (f"<think> {wrong} </think> <answer> {wrong} </answer>", "stop"),
        "empty": ("", "stop"),
        "truncated": (f"<think> {gold}", "length"),
    }
    if stage.world.think_open:
        texts = {name: (text.removeprefix("<think>"), reason) for name, (text, reason) in texts.items()}
    grade = stage.world.grader(settings.reward, cap=settings.rollout.max_new_tokens)
    completions = [_completion(text, "stop" if reason == "stop" else "length") for text, reason in texts.values()]
    return dict(zip(texts, grade([problem] * len(texts), completions), strict=True))


def _completion(text: str, reason: FinishReason) -> Completion:
    segment = Segment(token_ids=(0,), logprobs=(0.0,))
    return Completion(segments=(segment,), text=text, finish_reason=reason, seed=0, policy_version=0)


def _faults(stage: Stage, settings: ZeroSettings, probes: dict[str, Reward], prompt_tokens: int) -> list[str]:
    faults: list[str] = []
    gold = probes["gold"].value
    if gold is None:
        faults.append(f"the reference answer of {stage.world.train[0].id} cannot be graded: {dict(probes['gold'].details)}")
    for name in probes["gold"].components:
        if all(probe.components.get(name) is None for probe in probes.values()):
            details = probes["gold"].details
            why = next((text for column, text in details.items() if column.startswith("why") and text), "no reason given")
            faults.append(f"the reward {name} gives no value for any of the four answers: {why}")
    for name in ("wrong", "empty", "truncated"):
        other = probes[name].value
        if gold is not None and other is not None and other >= gold:
            faults.append(f"the reward of the gold answer ({gold:.2f}) does not beat the {name} one ({other:.2f})")
    context = getattr(stage.policy.config, "max_position_embeddings", None)
    later = settings.rollout.max_new_tokens_from_step
    cap = max([settings.rollout.max_new_tokens, *(value for step, value in later.items() if step < settings.steps)])
    if context is not None and prompt_tokens + cap > context:
        faults.append(
            f"a prompt of {prompt_tokens} tokens and an answer of up to {cap} exceed the model's context of {context}: "
            f"--rollout.max_new_tokens={context - prompt_tokens} --rollout.max_new_tokens_from_step={{}}"
        )
    if prompt_tokens + cap > settings.rollout.token_budget:
        faults.append(
            f"a prompt of {prompt_tokens} tokens and an answer of up to {cap} exceed the sampler's budget of "
            f"{settings.rollout.token_budget} positions: --rollout.token_budget={8 * (prompt_tokens + cap)}"
        )
    return faults


def _parameters(policy: PreTrainedModel) -> tuple[int, int]:
    """All of the policy's, and those that are trained."""
    sizes = [(p.numel(), p.requires_grad) for p in policy.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def _part_shown(policy: PreTrainedModel) -> str:
    whole, trained = _parameters(policy)
    return "" if trained == whole else f"; {trained:,} of {whole:,} parameters train"


def device_room(device: torch.device) -> int | None:
    """Bytes of a GPU's memory; ``None`` for a CPU, whose memory others use as well."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def _too_small(needed: int, room: int, settings: ZeroSettings) -> str:
    """What to change where training does not fit a GPU."""
    compute = settings.compute
    offload = '["optimizer", "reference"]' if settings.grpo.beta > 0 and settings.lora is None else '["optimizer"]'
    ways = [
        *(["--compute.gradient_checkpointing=true"] if not compute.gradient_checkpointing else []),
        *(["--compute.dtype=bfloat16"] if not compute.half else []),
        *([f"a lower --compute.tokens_per_micro_batch than {compute.tokens_per_micro_batch}"]),
        *([f"--compute.offload={offload}"] if not compute.offload else []),
        f"a lower --rollout.max_rows than {settings.rollout.max_rows}",
        *(["--lora.rank=16"] if settings.lora is None else []),
    ]
    return (
        f"this needs about {needed / 2**30:.1f} GiB on a GPU that has {room / 2**30:.1f}, and some of that is taken already. "
        f"In the order to try: {'; '.join(ways)}"
    )


def certain_memory(policy: PreTrainedModel, settings: ZeroSettings) -> int:
    """Bytes on the device that no smaller batch saves: weights, gradients, moments at a step, and a reference that stays there."""
    weights, trained = _parameters(policy)
    stays = settings.grpo.beta > 0 and "reference" not in settings.compute.offload
    return FLOAT32 * (weights + trained * (3 + stays))


def memory_needed(policy: PreTrainedModel, settings: ZeroSettings, *, longest: int, on_gpu: bool) -> int:
    """Bytes: float32 weights, gradients, two Adam moments, the reference, a micro-batch's activations, and the sampler's cache.

    ``longest`` is the longest prompt's number of tokens. Gradients, moments and reference are of what is trained. Adapters are merged into
    a copy of their layers' weights while there are no activations. On a GPU there are libraries and the head's chunks as well; in bfloat16
    a copy of linear layers that is sampled and one that autocast makes for the pass; and what is offloaded is not there during the pass.
    """
    model: Any = policy
    config = model.config
    weights, trained = _parameters(policy)
    half_on_gpu, offload = on_gpu and settings.compute.half, settings.compute.offload
    copies = 3 + (settings.grpo.beta > 0)
    if on_gpu:
        copies -= 2 * ("optimizer" in offload) + (settings.grpo.beta > 0 and "reference" in offload)
    twin = BFLOAT16 * weights if half_on_gpu else 0
    head = HEAD_CHUNKS + FLOAT32 * model.get_output_embeddings().weight.numel()
    adapted: list[Any] = [layer for layer in policy.modules() if is_adapted(layer)]
    merged = sum(layer.in_features * layer.out_features for layer in adapted)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rollout = settings.rollout
    rows = min(rollout.max_rows, rollout.prompts_per_rollout * rollout.group_size)
    positions = min(rollout.token_budget, rows * (longest + rollout.max_new_tokens))
    longest_sample = longest + rollout.max_new_tokens
    of_mini_batch = rollout.prompts_per_rollout * rollout.group_size // settings.grpo.mini_batches * longest_sample
    tokens = max(longest_sample, min(settings.compute.tokens_per_micro_batch, of_mini_batch))
    feed_forward = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    # Counted on Llama: what each layer keeps of a token for the way back, or only its input when it is computed again.
    kept = config.hidden_size if settings.compute.gradient_checkpointing else 22 * config.hidden_size + 5 * feed_forward
    layers = config.num_hidden_layers
    cache = layers * positions * heads * width * 2 * (1 if on_gpu else rollout.processes) * (BFLOAT16 if half_on_gpu else FLOAT32)
    activations = layers * tokens * kept
    passing: int = FLOAT32 * (weights + trained * copies + (activations if on_gpu else max(activations, merged))) + cache
    if not on_gpu:
        return passing
    # Of the pass, and of the optimizer's step: what is put away during one may be there during the other.
    on_device: int = RUNTIME + twin + max(passing + twin + head, certain_memory(policy, settings) + cache)
    return on_device

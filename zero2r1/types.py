"""The nouns every part of the system shares. Values are frozen; nothing here imports torch.

Problem ─▶ Completion ─▶ Reward          one question, one sampled output, one grade
Rollout = prompt + completion + reward + the policy version that wrote it
RolloutGroup = the G rollouts of one problem (the "group" of GRPO, paper section 2.1)
TrainingSample = what one gradient step sees of a rollout
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length"]
"""``stop``: the model ended by itself with a stop id. ``length``: it was cut at the cap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a dialogue: ``Message(role="user", content="What is 7 + 5?")``."""

    role: str
    content: str
    reasoning_content: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One question with its reference answer and the name of the verifier that grades it.

    Example: ``Problem(id="gsm8k/train/17", prompt="Natalia sold ...", answer="72", verifier="math",
    domain="math", language="en", source="gsm8k", licence="MIT", split="train")``.
    """

    id: str
    prompt: str | tuple[Message, ...]
    answer: str | None
    verifier: str
    domain: str
    language: str
    source: str
    licence: str
    split: str
    level: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Every other column of the data set; reward functions receive them as keywords."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """The prompt as turns of a dialogue."""
        return (Message(role="user", content=self.prompt),) if isinstance(self.prompt, str) else self.prompt

    @property
    def question(self) -> str:
        """The text the user asked last: the prompt itself, or its last user message."""
        if isinstance(self.prompt, str):
            return self.prompt
        return next(m.content for m in reversed(self.prompt) if m.role == "user")


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A run of output tokens that the model sampled, or that something else forced upon it.

    Forced segments (a prefilled ``<think>``, the output of a tool) are never trained on: their loss mask is 0
    and they carry no log-probabilities.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    """log pi(token | what stands before it) at the sampling temperature; ``None`` for a forced segment."""

    def __post_init__(self) -> None:
        if self.logprobs is not None and len(self.logprobs) != len(self.token_ids):
            raise ValueError(f"{len(self.token_ids)} tokens carry {len(self.logprobs)} log-probabilities")

    @property
    def sampled(self) -> bool:
        return self.logprobs is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One output o_i, as the sampler wrote it. ``text`` is decoded without the stop token."""

    segments: tuple[Segment, ...]
    text: str
    finish_reason: FinishReason
    seed: int
    policy_version: int

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(token for segment in self.segments for token in segment.token_ids)

    @property
    def loss_mask(self) -> tuple[bool, ...]:
        """True where the token was sampled by the policy, stop token included."""
        return tuple(segment.sampled for segment in self.segments for _ in segment.token_ids)

    @property
    def logprobs(self) -> tuple[float, ...]:
        """Sampler log-probabilities, one a token; 0.0 at forced tokens, which the loss mask hides."""
        return tuple(
            value
            for segment in self.segments
            for value in (segment.logprobs if segment.logprobs is not None else (0.0,) * len(segment.token_ids))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """The grade of one completion. ``value`` is ``None`` when it could not be graded, which is not 0."""

    value: float | None
    components: Mapping[str, float | None] = field(default_factory=dict)
    """What each reward function returned, before weights: ``{"accuracy": 1.0, "format": 0.0}``."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What the graders said about it: ``{"extracted": "72", "gold": "72", "why": "equal"}``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """Prompt, completion and grade. The policy version stands in ``completion.policy_version``."""

    prompt_ids: tuple[int, ...]
    completion: Completion
    reward: Reward


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutGroup:
    """The G rollouts of one problem: the baseline of GRPO is their mean reward."""

    problem: Problem
    rollouts: tuple[Rollout, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSample:
    """What one gradient step sees of one rollout. All sequences but the prompt have the completion's length.

    ``weights`` are the aggregation as data: the loss is ``sum_t weights[t] * token_loss[t]`` and nothing else,
    so splitting a batch into other micro-batches cannot change the gradient.
    """

    group: int
    """Samples with equal ``group`` share ``prompt_ids``; the training forward computes that prompt once."""
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    weights: tuple[float, ...]
    advantage: float
    sampler_logprobs: tuple[float, ...]

    def __post_init__(self) -> None:
        lengths = {len(self.completion_ids), len(self.weights), len(self.sampler_logprobs)}
        if len(lengths) != 1:
            raise ValueError(f"completion, weights and log-probabilities differ in length: {sorted(lengths)}")
        if not self.prompt_ids or not self.completion_ids:
            raise ValueError("a training sample needs at least one prompt token and one completion token")


Grader = Callable[[Sequence[Problem], Sequence[Completion]], list[Reward]]
"""Grades completions; ``problems[i]`` is the problem of ``completions[i]``. Same length out as in."""

RewardFn = Callable[..., "list[float | None]"]
"""TRL's signature: called with keywords ``prompts, completions, completion_ids, **columns``; ``None`` = does not apply."""

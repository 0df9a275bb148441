"""What a stage cost, counted from its metrics, so that distilling a student and training it by RL can stand in one table (Table 6).

    FLOPs = 2 N (sampled + prompt) + 6 N (trained + prompt) + 2 N' (scored + prompt),        each bracket where that pass is made

N counts the weights a token is multiplied with: all but the input embedding, the head included. A forward pass takes two operations a
weight and a token, a backward pass four. N' are the weights of all who only read: the teacher, or the reference and old policy of RL.

It is an estimate, and the same for all: the products of attention scores, which grow with the square of the length, are left out, and
so is what is computed twice to save memory. Seconds are measured: the sum of ``step_time``, without evaluation and loading. Steps that
a killed run made twice count once. What made the data (a teacher's own sampling, its training) is not in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Row = Mapping[str, Any]
"""One row of ``metrics.jsonl``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """What one stage computed."""

    method: Literal["sft", "rl", "on_policy"]
    parameters: int
    """N, of the model that was trained."""
    reader_parameters: int = 0
    """N', of all who only read."""
    steps: int
    sampled_tokens: int = 0
    trained_tokens: int
    scored_tokens: int = 0
    prompt_tokens: int | None
    """Prompts, each once where several answers share it. ``None``: the rows do not say, and the estimate is without them."""
    seconds: float

    @property
    def flops(self) -> int:
        prompts = self.prompt_tokens or 0
        passes = (
            (2 * self.parameters, self.sampled_tokens),
            (6 * self.parameters, self.trained_tokens),
            (2 * self.reader_parameters, self.scored_tokens),
        )
        return sum(cost * (tokens + prompts) for cost, tokens in passes if tokens)

    @property
    def formula(self) -> str:
        """The estimate in words, with its numbers."""
        prompts = "" if self.prompt_tokens is None else f" + {self.prompt_tokens:,} prompt"
        parts = (
            (2, self.parameters, self.sampled_tokens, "sampled"),
            (6, self.parameters, self.trained_tokens, "trained"),
            (2, self.reader_parameters, self.scored_tokens, "scored"),
        )
        written = (f"{cost} x {weights:,} x ({tokens:,} {name}{prompts} tokens)" for cost, weights, tokens, name in parts if tokens)
        return " + ".join(written) or "nothing computed"

    def as_row(self) -> dict[str, Any]:
        """JSON values, the estimate and its formula among them."""
        return {**asdict(self), "flops": self.flops, "formula": self.formula}


def sft_compute(rows: Sequence[Row], *, parameters: int) -> Compute:
    """Supervised fine-tuning, distillation from samples among it: every response token is trained on."""
    return Compute(
        method="sft",
        parameters=parameters,
        steps=len(rows),
        trained_tokens=_tokens(rows),
        prompt_tokens=_prompt_tokens(rows),
        seconds=_seconds(rows),
    )


def rl_compute(rows: Sequence[Row], *, parameters: int, scoring_passes: float = 0, skips_groups_without_signal: bool = False) -> Compute:
    """GRPO: everything is sampled, and trained on as often as it is sampled.

    Args:
        scoring_passes: further passes over all samples that only read: one for a reference (beta > 0), one for old log-probabilities
            where they are computed again, less the share of each rollout's first update, whose own pass computes them.
        skips_groups_without_signal: whether groups of equal rewards are left out of training (``compute.skip_groups_without_signal``
            while beta is 0); the rows say how many of the groups these were, not how long, so they count as being as long as the others.
    """
    sampled = _tokens(rows)
    trained = sum(row["num_tokens"] * (1 - row["frac_reward_zero_std"]) for row in rows) if skips_groups_without_signal else sampled
    return Compute(
        method="rl",
        parameters=parameters,
        reader_parameters=round(scoring_passes * parameters),
        steps=len(rows),
        sampled_tokens=sampled,
        trained_tokens=round(trained),
        scored_tokens=sampled if scoring_passes else 0,
        prompt_tokens=_prompt_tokens(rows),
        seconds=_seconds(rows),
    )


def on_policy_compute(rows: Sequence[Row], *, parameters: int, teacher_parameters: int) -> Compute:
    """On-policy distillation: the student samples and is trained on all of it, the teacher reads all of it."""
    sampled = _tokens(rows)
    return Compute(
        method="on_policy",
        parameters=parameters,
        reader_parameters=teacher_parameters,
        steps=len(rows),
        sampled_tokens=sampled,
        trained_tokens=sampled,
        scored_tokens=sampled,
        prompt_tokens=_prompt_tokens(rows),
        seconds=_seconds(rows),
    )


def multiplied_parameters(model: Any) -> int:
    """N of a model of `transformers`: weights a token is multiplied with. The input embedding is not, unless it is the head as well."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    total: int = sum(parameter.numel() for parameter in model.parameters())
    return total if head is embedding else total - int(embedding.numel())


def _tokens(rows: Sequence[Row]) -> int:
    return sum(int(row["num_tokens"]) for row in rows)


def _prompt_tokens(rows: Sequence[Row]) -> int | None:
    """What the rows say of prompts; ``None`` where one of them does not."""
    if any("num_prompt_tokens" not in row for row in rows):
        return None
    return sum(int(row["num_prompt_tokens"]) for row in rows)


def _seconds(rows: Sequence[Row]) -> float:
    return float(sum(row["step_time"] for row in rows))

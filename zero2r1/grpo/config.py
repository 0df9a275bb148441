"""Settings of GRPO training: what the paper states, what it does not, and where ours come from.

Defaults are the paper's R1-Zero (``--algorithm r1``); "not stated" marks what the paper leaves open. A step is one update of
the policy (paper, figure 1): a rollout of ``prompts_per_rollout`` questions serves ``mini_batches`` steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from zero2r1.config import Settings
from zero2r1.training.config import ComputeSettings, LoraSettings, OptimizerSettings, SamplerSettings, refuse_processes


class RolloutSettings(SamplerSettings):
    """Sampling: 512 questions x 16 outputs = 8,192 outputs a rollout (paper, section 2.3)."""

    prompts_per_rollout: int = Field(512, ge=1)
    group_size: int = Field(16, ge=2)  # G; at least two outputs, or there is nothing to compare
    temperature: float = Field(1.0, gt=0)  # 0 has no log-probabilities
    max_new_tokens: int = Field(32_768, ge=1)
    max_new_tokens_from_step: dict[int, int] = {8_200: 65_536}  # the cap changes at these steps
    # Questions whose outputs all earn the same are replaced by others, in at most so many draws a rollout (DAPO's dynamic sampling).
    max_draws: int = Field(1, ge=1)
    top_p: float = 1.0  # anything else is refused

    @field_validator("top_p")
    @classmethod
    def _whole_distribution(cls, value: float) -> float:
        if value != 1.0:
            raise ValueError(
                "training samples from the whole distribution: from a part of it, every ratio would be off by the mass cut away. "
                "Leave rollout.top_p at 1; evaluation may use another"
            )
        return value

    def cap_at(self, step: int) -> int:
        """The output cap of a rollout that starts at ``step``."""
        return [self.max_new_tokens, *(cap for at, cap in sorted(self.max_new_tokens_from_step.items()) if at <= step)][-1]


OldLogprobs = Literal["sampler", "scored", "of_update"]
"""Where pi_old comes from: what the sampler said; a pass over the tokens; or the update's own pass, which costs nothing more."""


class GrpoSettings(Settings):
    """The objective. Names are keys of ``ADVANTAGES``, ``SCALINGS``, ``AGGREGATIONS``, ``RATIOS``, ``SURROGATES``, ``CORRECTIONS`` and
    ``KL_ESTIMATORS``."""

    advantage: Literal["group_mean_std", "group_mean", "leave_one_out"] = "group_mean_std"
    scaling: Literal["none", "rollout_std"] = "none"
    std_ddof: int = Field(0, ge=0, le=1)  # not stated; 0 divides the variance by G, 1 by G - 1
    std_epsilon: float = Field(1e-4, ge=0)  # not stated
    aggregation: Literal["sequence_mean", "token_mean", "constant", "output_sum"] = "sequence_mean"
    # Equation 1 prints whole-sequence ratios; the token form is DeepSeekMath's and V3.2's.
    ratio: Literal["token", "sequence", "sequence_mean"] = "token"
    surrogate: Literal["clipped", "clipped_weight", "score"] = "clipped"
    clip_low: float = Field(10.0, gt=0)  # eps = 10 for R1's first RL stage; not stated for R1-Zero
    clip_high: float = Field(10.0, gt=0)
    kl: Literal["k1", "k2", "k3", "k3_corrected"] = "k3"
    beta: float = Field(0.001, ge=0)
    reference_reset_steps: int | None = Field(400, ge=1)  # the reference becomes the policy every so many steps
    mini_batches: int = Field(16, ge=1)  # updates per rollout, cut by question
    filter_zero_variance: bool = False  # drop groups of equal rewards from every sum (DAPO)
    mask_truncated: bool = False  # not stated: truncated outputs count, with whatever reward they earned
    old_logprobs: Literal["auto", "sampler", "recompute"] = "auto"  # auto: the sampler's, if its engine is exact
    correction: Literal["none", "truncated"] = "none"  # for a sampler that computes otherwise than the trainer
    correction_cap: float = Field(2.0, gt=0)
    entropy_bonus: float = Field(0.0, ge=0)  # times the entropy of every trained token

    @model_validator(mode="after")
    def _makes_sense(self) -> GrpoSettings:
        if self.correction != "none" and self.old_logprobs == "sampler":
            raise ValueError(
                f"grpo.correction {self.correction} compares the trainer's log-probabilities with the sampler's, and grpo.old_logprobs: "
                "sampler takes them for the same. Set grpo.old_logprobs: recompute"
            )
        if self.surrogate == "score" and self.mini_batches > 1:
            raise ValueError(
                f"grpo.surrogate score has no ratio, so only the first of {self.mini_batches} updates of a rollout would be true. Set "
                "grpo.mini_batches: 1"
            )
        return self

    def old_sources(self, *, exact: bool) -> Sequence[OldLogprobs]:
        """Where pi_old of each update of a rollout comes from. ``exact``: the sampler computes as the trainer does."""
        if self.old_logprobs == "sampler" or (self.old_logprobs == "auto" and exact and self.correction == "none"):
            return ["sampler"] * self.mini_batches
        # Until the first update the policy is the one that sampled, so that update's own pass can say what pi_old was.
        later: list[OldLogprobs] = ["scored"] * (self.mini_batches - 1)
        return ["of_update", *later]


class ConvergenceSettings(Settings):
    """Stop when a figure no longer rises (:func:`zero2r1.grpo.convergence.converged`). The paper says "until convergence" and no more."""

    figure: str = "rewards/accuracy/mean"  # a column of metrics.jsonl
    window: int = Field(100, ge=1)  # steps of each of the two means that are compared
    min_gain: float = 0.005
    patience: int = Field(20, ge=1)  # steps in a row for which the gain has to be smaller


class MonitorSettings(Settings):
    """Notice when a learnt score is hacked: it rises while a benchmark of rules falls (:func:`zero2r1.grpo.monitor.find_hacking`)."""

    score: str = "rewards/helpful/mean"  # columns of metrics.jsonl
    benchmark: str = "rewards/accuracy/mean"
    window: int = Field(50, ge=1)  # steps at the beginning and at the end that are compared; the paper shows the effect, no rule
    min_rise: float = Field(0.05, ge=0)
    min_fall: float = Field(0.05, ge=0)
    action: Literal["warn", "stop"] = "warn"


class TrainSettings(Settings):
    """Everything the GRPO trainer needs."""

    steps: int = Field(10_400, ge=1)
    seed: int = Field(0, ge=0)
    rollout: RolloutSettings = RolloutSettings()
    grpo: GrpoSettings = GrpoSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    lora: LoraSettings | None = None  # none: all weights are trained
    compute: ComputeSettings = ComputeSettings()
    convergence: ConvergenceSettings | None = None  # none: all steps are taken
    monitor: MonitorSettings | None = None
    evaluate_every: int | None = Field(100, ge=1)
    checkpoint_every: int = Field(100, ge=1)
    keep_checkpoints: int = Field(3, ge=1)
    stop_after_dead_steps: int = Field(50, ge=1)  # steps in a row without any group that has unequal rewards
    stop_after_nonfinite_steps: int = Field(3, ge=1)

    @model_validator(mode="after")
    def _arithmetic(self) -> TrainSettings:
        questions, parts = self.rollout.prompts_per_rollout, self.grpo.mini_batches
        if questions % parts:
            raise ValueError(
                f"{questions} questions cannot be cut into {parts} mini-batches of equal size. "
                f"Set rollout.prompts_per_rollout to {parts * max(1, round(questions / parts))} or grpo.mini_batches to a divisor."
            )
        refuse_processes(self.lora, self.rollout)
        return self


_WITHOUT_KL = {"beta": 0.0, "reference_reset_steps": None}
ALGORITHMS: Mapping[str, dict[str, Any]] = {
    # The paper: the defaults above.
    "r1": {},
    # What later work recommends: no division by std, no length in the weights, clip-higher, no KL, groups without signal dropped.
    "modern": {
        "grpo": {
            "advantage": "group_mean",
            "aggregation": "constant",
            "clip_low": 0.2,
            "clip_high": 0.28,
            "filter_zero_variance": True,
            **_WITHOUT_KL,
        }
    },
    # Each as its authors publish it, as far as it differs from the paper; what they leave open stays as it is.
    "dr_grpo": {"grpo": {"advantage": "group_mean", "aggregation": "constant", "clip_low": 0.2, "clip_high": 0.2, **_WITHOUT_KL}},
    "dapo": {
        "rollout": {"max_draws": 10, "max_new_tokens_from_step": {}},
        "grpo": {"aggregation": "token_mean", "clip_low": 0.2, "clip_high": 0.28, **_WITHOUT_KL},
        # Right and wrong earn 1 and -1 there, and the slope ends at -1: here half of each, which normalised is the same.
        "reward": {"weights": {"accuracy": 1.0, "overlong": 0.5}, "overlong_cache": 4_096},
    },
    "gspo": {"grpo": {"ratio": "sequence_mean", "clip_low": 3e-4, "clip_high": 4e-4, "mini_batches": 4, **_WITHOUT_KL}},
    # No lower bound; the upper one is not published. Others take 5 as the largest weight, which is 1 + 4.
    "cispo": {"grpo": {"surrogate": "clipped_weight", "aggregation": "token_mean", "clip_low": 1.0, "clip_high": 4.0, **_WITHOUT_KL}},
    # Its KL is part of the reward; here it stays in the loss if beta is set.
    "rloo": {"grpo": {"advantage": "leave_one_out", "aggregation": "output_sum", "surrogate": "score", "mini_batches": 1, **_WITHOUT_KL}},
    "reinforce_pp_baseline": {
        "grpo": {
            "advantage": "group_mean",
            "scaling": "rollout_std",
            "aggregation": "token_mean",
            "clip_low": 0.2,
            "clip_high": 0.2,
            "kl": "k2",
            "reference_reset_steps": None,
        }
    },
}

"""Settings of single stages: what a trainer needs, and which model, problems, rewards and evaluation go with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from zero2r1.config import Settings
from zero2r1.grpo.config import TrainSettings
from zero2r1.rewards.config import RejectionSettings
from zero2r1.sft.config import SftSettings
from zero2r1.tracking import Tracker
from zero2r1.training.config import SamplerSettings

Share = Annotated[float, Field(ge=0, le=1)]

RECIPES = next((p for p in (Path(__file__).parents[2] / "recipes", Path(__file__).parents[1] / "_recipes") if p.is_dir()), Path("recipes"))
"""The recipes of a checkout, or those an installed package carries."""


def claims_file(name: str) -> Path:
    """A file of claims: a path, or one among the recipes.

    Raises:
        ValueError: neither is there.
    """
    for path in (Path(name), RECIPES / name):
        if path.is_file():
            return path
    raise ValueError(f"claims names {name}, and there is no such file, here or under {RECIPES}")


class DataSettings(Settings):
    """Problems to train on and to be measured on: ``laptop``, ``arithmetic``, ``word_problems``, or files and Hub names (see
    zero2r1.tasks.files)."""

    train: str = "laptop"
    held_out: str | None = None  # needed with files; what is made here has a held-out split of its own
    count: int | None = Field(None, ge=1)  # the most rows of a file (all), or how many are made (laptop 8192, the other sets 4096)
    template: str = "zero"  # a name of zero2r1.template.TEMPLATES, `chat`, or a text with one {question}
    columns: dict[str, str] = {}  # e.g. {prompt: problem, answer: solution}; detected when left out


class RewardSettings(Settings):
    """R_rule = R_acc + R_format with equal weights (paper, equation 4); rule rewards only."""

    weights: dict[str, float] = {"accuracy": 1.0, "format": 1.0}  # a function of yours by its place: {"my_rewards.py:f": 0.5}
    overlong_cache: int = Field(4_096, ge=1)  # tokens before the cap over which `overlong` falls from 0 to -1 (DAPO's length)
    allow_neural: bool = False  # the paper trains R1-Zero without any neural reward, because policies learn to hack them

    @model_validator(mode="after")
    def _rules_only(self) -> RewardSettings:
        for name, meant in (("math", "accuracy"), ("choice", "accuracy")):
            if name in self.weights:
                raise ValueError(f"reward.weights names {name}; in training it is {meant}, graded by the verifier each problem names")
        neural = [name for name in self.weights if name not in RULE_REWARDS]
        if neural and not self.allow_neural:
            raise ValueError(
                f"R1-Zero uses rule rewards only, and {neural} are none of {sorted(RULE_REWARDS)}. Long runs learn to please a neural "
                "reward instead of being right (paper, section 2.2.2). To do it all the same, or because a function of yours is a rule: "
                "--reward.allow_neural=true"
            )
        return self


RULE_REWARDS = frozenset({"accuracy", "format", "language", "repetition", "overlong"})


class EvaluationSettings(Settings):
    """Held-out measurement, before, during and after training."""

    problems: int = Field(256, ge=2)
    samples: int = Field(8, ge=1)  # answers per problem: pass@1 is their mean, maj@8 their vote
    probes: int = Field(64, ge=0)  # fixed questions answered and stored every `evaluate_every` steps
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_new_tokens: int | None = Field(None, ge=1)  # the cap of the rollouts if left out
    seed: int = 1


class BaseSettings(Settings):
    """The laptop world's base model: trained from nothing, then kept by digest."""

    steps: int = Field(800, ge=1)
    rows: int = Field(16, ge=2, multiple_of=2)  # a half for each of two processes
    row_length: int = Field(256, ge=8)
    size: str = "teacher"
    seed: int | None = None  # the run's seed


REASONING_REWARD = RewardSettings(weights={"accuracy": 1.0, "format": 1.0, "language": 1.0})
"""Accuracy and format, and the share of the thinking that is in the wanted language, added up (section 2.3.2)."""


class SampleSettings(SamplerSettings):
    """How answers are drawn to learn from."""

    samples: int = Field(4, ge=1)  # per problem; not stated
    temperature: float = Field(1.0, gt=0)
    max_new_tokens: int = Field(32_768, ge=1)
    chunk: int = Field(64, ge=1)  # problems at a time: what a killed run does again


class EndpointSettings(Settings):
    """A model behind an OpenAI-compatible address that helps: it writes, rewrites or judges."""

    url: str  # http://127.0.0.1:8000/v1
    model: str
    key_env: str | None = None  # the environment variable that holds the key
    temperature: float = Field(0.6, ge=0)
    max_tokens: int = Field(8_192, ge=1)
    concurrency: int = Field(8, ge=1)
    timeout_s: float = Field(600.0, gt=0)


class PassRateSettings(Settings):
    """Problems that the policy solves never or always teach nothing; measured once, before the stage."""

    problems: int = Field(8_192, ge=1)  # how many are measured
    samples: int = Field(8, ge=2)
    above: Share = 0.0  # kept: above < measured pass rate < below
    below: Share = 1.0
    chunk: int = Field(64, ge=1)  # problems at a time: what a killed run does again


class GeneralRlSettings(Settings):
    """General requests among the reasoning problems of RL (section 2.3.4): how many, from when on, and what they are rewarded for.

    R = R_reasoning + R_general + R_language; a term is absent where the prompt is not of its kind (supplement, equations 8 to 10).
    """

    shares: dict[Literal["reasoning", "helpful", "harmless"], Annotated[float, Field(ge=0)]] = {
        "reasoning": 0.7, "helpful": 0.25, "harmless": 0.05,
    }  # fmt: skip  # not stated
    from_step: int = Field(1_300, ge=0)  # "only in the last 400 steps" of 1,700: more of a learnt reward was hacked
    # Scores are put on a scale of 0 to 1 first: helpful is sigmoid((score - mean) / std) by the reference answers, harmless P(safe).
    weights: dict[Literal["helpful", "harmless", "format", "language"], float] = {
        "helpful": 1.0, "harmless": 1.0, "format": 1.0, "language": 1.0,
    }  # fmt: skip
    held_out: int = Field(256, ge=2)  # requests of each set that are asked before and after, if there are so many

    @model_validator(mode="after")
    def _asks_something(self) -> GeneralRlSettings:
        if not any(share for name, share in self.shares.items() if name != "reasoning"):
            raise ValueError(f"general.shares is {self.shares}: give helpful or harmless a share above 0")
        return self


class ZeroSettings(TrainSettings):
    """Everything ``train zero`` and ``demo`` know."""

    model: str = "laptop"  # `laptop`, `smollm2-135m`, or a folder or name that transformers loads
    base: BaseSettings = BaseSettings()
    data: DataSettings = DataSettings()
    reward: RewardSettings = RewardSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    shuffle_rewards: bool = False  # control: rewards are dealt out at random within the rollout
    negate_rewards: bool = False  # control: what is wrong is rewarded
    claims: str | None = None  # a file of claims to judge at the end; a relative one is looked for among the recipes too
    threads: int | None = Field(None, ge=1)
    track: Tracker = "none"  # also copy the metrics to tensorboard or wandb

    @model_validator(mode="after")
    def _one_cap(self) -> ZeroSettings:
        if "overlong" in self.reward.weights and self.rollout.max_new_tokens_from_step:
            raise ValueError(
                "reward.weights names overlong, a slope that ends at the cap, and the cap changes at "
                f"{self.rollout.max_new_tokens_from_step}. Set rollout.max_new_tokens_from_step: {{}}"
            )
        return self


class RlDataSettings(DataSettings):
    """As in R1-Zero, for a model that has seen dialogues."""

    template: str = "chat"


class GeneralRunSettings(GeneralRlSettings):
    """General requests in a run of its own: where they are, and the reward models that score their answers."""

    requests: str  # `laptop`, or a file of requests; its column `set` says helpful (if left out) or harmless
    held_out_requests: str | None = None  # asked before and after; the laptop world has its own
    helpful: str | None = None  # folders that `train rm` wrote
    harmless: str | None = None


class RlSettings(ZeroSettings):
    """Everything ``train rl`` knows: RL of a model that already answers in the thinking layout (stages 2 and 4)."""

    data: RlDataSettings = RlDataSettings()
    reward: RewardSettings = REASONING_REWARD
    format_mode: Literal["strict", "think_only"] = "think_only"
    mixture: dict[str, float] = {}  # domain -> share; as the problems come if left out
    pass_rate: PassRateSettings | None = None
    general: GeneralRunSettings | None = None  # stage 4: general requests among the problems, scored by reward models


class SftDataSettings(Settings):
    """What ``train sft`` imitates, and the problems it is measured on."""

    train: str | None = None  # dialogues or samples: JSONL, JSON, Parquet
    held_out: str | None = None  # problems with answers; `laptop` for the laptop world's; not measured if left out
    columns: dict[str, str] = {}  # of held_out, as for problems elsewhere
    template: str = "chat"  # or a name of zero2r1.template.TEMPLATES, or a text with one {question}
    layout: Literal["think", "special_token"] = "think"  # thinking in tags, or as section 2.3.1 prints it


class SftStageSettings(SftSettings):
    """Everything ``train sft`` knows."""

    model: str = "laptop"
    base: BaseSettings = BaseSettings()
    data: SftDataSettings = SftDataSettings()
    evaluation: EvaluationSettings = EvaluationSettings(max_new_tokens=4_096)
    threads: int | None = Field(None, ge=1)
    track: Tracker = "none"


class SampleRunSettings(Settings):
    """Everything ``sample`` knows: rejection sampling from one model."""

    model: str = "laptop"
    base: BaseSettings = BaseSettings()
    data: RlDataSettings = RlDataSettings()
    sample: SampleSettings = SampleSettings(samples=8)
    selection: RejectionSettings = RejectionSettings()
    endpoint: EndpointSettings | None = None  # a judge for problems that no rule can check
    decontaminate: tuple[str, ...] = ()  # files of evaluation questions, beside data.held_out
    evaluation: EvaluationSettings = EvaluationSettings()
    seed: int = Field(0, ge=0)
    threads: int | None = Field(None, ge=1)

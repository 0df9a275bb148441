"""Settings of the pipeline: one section a stage. Defaults are the paper's where it states them; "not stated" marks the rest."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from zero2r1.config import Settings
from zero2r1.grpo.config import MonitorSettings, RolloutSettings, TrainSettings
from zero2r1.pipeline.config import (
    REASONING_REWARD,
    BaseSettings,
    DataSettings,
    EndpointSettings,
    EvaluationSettings,
    GeneralRlSettings,
    PassRateSettings,
    RewardSettings,
    SampleSettings,
    Share,
    ZeroSettings,
)
from zero2r1.reward_models.config import RewardModelSettings
from zero2r1.rewards.config import ReadabilitySettings, RejectionSettings
from zero2r1.sft.config import SftSettings


class ColdStartSettings(Settings):
    """Stage 1 (section 2.3.1): thousands of readable long thoughts, from up to four sources, then SFT from the base."""

    problems: int = Field(4_000, ge=0)  # given to R1-Zero; "thousands"
    sample: SampleSettings = SampleSettings()
    from_zero: int | None = Field(None, ge=0)  # the most of its outputs that are kept; all that are right and readable
    solved: int = Field(0, ge=0)  # problems given to the solver of the laptop world
    few_shot: int = Field(0, ge=0)  # problems given to the endpoint with a long thought as an example
    direct: int = Field(0, ge=0)  # problems given to the endpoint, asked for reflection and verification
    examples: str | None = None  # a file of samples or dialogues to show; the laptop world's solver writes its own
    rewrite: bool = False  # the endpoint refines what R1-Zero wrote and adds a summary
    # `wait` writes a file for a person and stops until every sample in it has a decision; `scripted` is the laptop world's editor.
    review: Literal["none", "wait", "scripted"] = "none"
    reviewer: str = "a person"  # the name that goes into the record
    endpoint: EndpointSettings | None = None
    readability: ReadabilitySettings = ReadabilitySettings()
    sft: SftSettings = SftSettings()

    @model_validator(mode="after")
    def _has_someone_to_ask(self) -> ColdStartSettings:
        wanted = [name for name in ("few_shot", "direct", "rewrite") if getattr(self, name)]
        if wanted and self.endpoint is None:
            raise ValueError(f"{', '.join(wanted)} need a model to ask: set endpoint.url and endpoint.model")
        if self.endpoint is not None and not wanted:
            raise ValueError("endpoint is set and nobody asks it: set few_shot, direct or rewrite, or leave it out")
        if self.review != "wait" and self.reviewer != "a person":
            raise ValueError(f"reviewer is {self.reviewer!r}, but review is {self.review}: the name goes into the record with review: wait")
        if not (self.problems or self.solved or self.few_shot or self.direct):
            raise ValueError("no source is left: set problems, solved, few_shot or direct above 0")
        return self


class ReasoningRlSettings(TrainSettings):
    """Stage 2 (section 2.3.2): GRPO from the cold-started model, with a reward for thinking in one language."""

    reward: RewardSettings = REASONING_REWARD
    mixture: dict[str, float] = {}  # domain -> share; as the problems come if left out
    problems: int = Field(8_192, ge=1)
    pass_rate: PassRateSettings | None = None


class GeneralSettings(Settings):
    """What is mixed with reasoning in stage 3: writing, factual questions, self-cognition, translation, role play."""

    source: str = "laptop"  # or a file of dialogues or samples
    allow_fewer: bool = False  # train on what there is, where general samples are too few for the share
    think_about: tuple[str, ...] = ()  # domains whose answers get a thinking by the endpoint first; trivial requests never do


class RejectionSftSettings(Settings):
    """Stage 3 (section 2.3.3): sample from stage 2, keep what is right and readable, add general data, two epochs from the base."""

    problems: int = Field(75_000, ge=1)  # not stated; 600k kept samples at up to 4 kept of 8
    sample: SampleSettings = SampleSettings(samples=8)
    selection: RejectionSettings = RejectionSettings()
    judged: Share = 0.0  # of the laptop world's problems: treated as if no rule could check them
    judge_noise: Share = 0.0  # share of the laptop judge's verdicts that are turned around
    endpoint: EndpointSettings | None = None  # the judge of problems without a rule, and the writer of thinking for general data
    general: GeneralSettings = GeneralSettings()
    sft: SftSettings = SftSettings()

    @model_validator(mode="after")
    def _one_judge(self) -> RejectionSftSettings:
        if self.endpoint is not None and self.judge_noise:
            raise ValueError("judge_noise is for the judge of the laptop world; with an endpoint the endpoint judges: set one of them")
        if self.general.think_about and self.endpoint is None:
            raise ValueError("general.think_about needs a model that thinks: set endpoint.url and endpoint.model")
        return self


class RequestSettings(Settings):
    """General requests: what reward models and RL for all scenarios are about. Without them these two stages are left out."""

    train: str | None = None  # `laptop`, or a file of requests; its column `set` says helpful (if left out) or harmless
    held_out: str | None = None  # asked in evaluation only; the laptop world has its own


class HelpfulModelSettings(RewardModelSettings):
    """The model of helpfulness: from pairs of answers, it reads the summary alone."""

    kind: Literal["preference"] = "preference"


class SafetyModelSettings(RewardModelSettings):
    """The model of harmlessness: from answers that are labelled safe or unsafe, it reads the whole response."""

    kind: Literal["safety"] = "safety"


class RewardModelsSettings(Settings):
    """The reward models of stage 4 (section 2.3.4): pairs and labels from files, or made from answers of the stage-3 model by a judge."""

    pairs: str | None = None  # a file of preferences, in TRL's shapes; answers are drawn and judged if left out
    labels: str | None = None  # a file of answers that are labelled safe or unsafe
    helpful_requests: int = Field(16_500, ge=1)  # answered and judged; the paper has 66,000 pairs
    harmful_requests: int = Field(26_500, ge=1)  # answered and labelled; the paper has 106,000 labels
    sample: SampleSettings = SampleSettings()
    pairs_per_request: int = Field(4, ge=1)  # not stated
    calls: int = Field(4, ge=2, multiple_of=2)  # the judge's, half of them with the answers the other way round
    min_gap: float = Field(1.0, ge=0)  # kept: mean verdict, on a scale of -2 to 2, beyond this
    judge_noise: Share = 0.0  # share of the laptop judge's verdicts that are turned around
    endpoint: EndpointSettings | None = None  # the judge of answers
    helpful: HelpfulModelSettings = HelpfulModelSettings()
    safety: SafetyModelSettings = SafetyModelSettings()

    @model_validator(mode="after")
    def _one_judge(self) -> RewardModelsSettings:
        if self.endpoint is not None and self.judge_noise:
            raise ValueError("judge_noise is for the judge of the laptop world; with an endpoint the endpoint judges: set one of them")
        if self.pairs is None and self.sample.samples < 2:
            raise ValueError(
                f"reward_models.sample.samples is {self.sample.samples}: to compare answers, two or more to a request are needed"
            )
        return self


class AllScenariosSettings(TrainSettings):
    """Stage 4 (section 2.3.4): rule rewards for reasoning, reward models for general requests, one language for all."""

    steps: int = Field(1_700, ge=1)
    rollout: RolloutSettings = RolloutSettings(temperature=0.7)
    reward: RewardSettings = REASONING_REWARD
    mixture: dict[str, float] = {}  # of the reasoning problems: domain -> share
    problems: int = Field(8_192, ge=1)
    general: GeneralRlSettings = GeneralRlSettings()
    monitor: MonitorSettings | None = MonitorSettings()


class DistillationSettings(Settings):
    """Distillation (section 2.4): SFT of a small base model on the samples of stage 3; no RL."""

    model: str | None = None  # the student: `laptop`, or a folder or name that transformers loads; left out if there is none
    base: BaseSettings = BaseSettings(size="student")
    sft: SftSettings = SftSettings(batch_size=64)


class StudentRlSettings(TrainSettings):
    """Pure RL on the student instead of distillation (the paper's Table 6): what it is compared with."""

    run: bool = False
    reward: RewardSettings = RewardSettings()


class ZeroSection(TrainSettings):
    """R1-Zero (section 2.2)."""

    reward: RewardSettings = RewardSettings()


RlSection = ZeroSection | ReasoningRlSettings | AllScenariosSettings | StudentRlSettings


class PipelineSettings(Settings):
    """A whole recipe: base -> R1-Zero -> cold start -> reasoning RL -> rejection sampling and SFT -> RL for all scenarios; a student."""

    seed: int = Field(0, ge=0)
    model: str = "laptop"  # `laptop`, `smollm2-135m`, or a folder or name that transformers loads
    base: BaseSettings = BaseSettings()
    data: DataSettings = DataSettings()
    decontaminate: tuple[str, ...] = ()  # files of evaluation questions beside data.held_out that no training text may overlap
    evaluation: EvaluationSettings = EvaluationSettings()
    zero: ZeroSection = ZeroSection()
    cold_start: ColdStartSettings = ColdStartSettings()
    reasoning_rl: ReasoningRlSettings = ReasoningRlSettings()
    no_language: bool = False  # the ablation: stage 2 once more without the language reward
    rejection_sft: RejectionSftSettings = RejectionSftSettings()
    requests: RequestSettings = RequestSettings()
    reward_models: RewardModelsSettings = RewardModelsSettings()
    all_scenarios: AllScenariosSettings = AllScenariosSettings()
    distillation: DistillationSettings = DistillationSettings()
    student_rl: StudentRlSettings = StudentRlSettings()
    claims: str | None = None  # a file of claims to judge at the end; a relative one is looked for among the recipes too
    minutes: float | None = Field(None, gt=0)  # what the recipe takes on the machine it was made for
    threads: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one_seed(self) -> PipelineSettings:
        for name, value in (
            ("zero.seed", self.zero.seed),
            ("reasoning_rl.seed", self.reasoning_rl.seed),
            ("cold_start.sft.seed", self.cold_start.sft.seed),
            ("rejection_sft.sft.seed", self.rejection_sft.sft.seed),
            ("rejection_sft.selection.seed", self.rejection_sft.selection.seed),
            ("reward_models.helpful.seed", self.reward_models.helpful.seed),
            ("reward_models.safety.seed", self.reward_models.safety.seed),
            ("all_scenarios.seed", self.all_scenarios.seed),
            ("distillation.sft.seed", self.distillation.sft.seed),
            ("student_rl.seed", self.student_rl.seed),
        ):
            if value:  # 0 is what a section has that nobody set
                raise ValueError(f"{name} is not used in a pipeline, where one seed serves all stages: set seed")
        return self

    @model_validator(mode="after")
    def _ablation_differs(self) -> PipelineSettings:
        weights = self.reasoning_rl.reward.weights
        if self.no_language and (not weights.get("language") or len(weights) < 2):
            raise ValueError(
                f"no_language trains stage 2 without the language reward, but reasoning_rl.reward.weights is {weights}: give language and "
                "another reward a weight, or leave no_language out"
            )
        return self

    @property
    def measured_alike(self) -> EvaluationSettings:
        """The evaluation with one cap for all checkpoints, so that they can be compared: the largest of the rollouts if left out."""
        run = [
            self.zero,
            self.reasoning_rl,
            *([self.all_scenarios] if self.requests.train else []),
            *([self.student_rl] if self.student_rl.run else []),
        ]
        caps = [section.rollout.cap_at(section.steps) for section in run]
        return self.evaluation.model_copy(update={"max_new_tokens": self.evaluation.max_new_tokens or max(caps)})

    def rl_settings(self, section: RlSection) -> ZeroSettings:
        """A section as the settings of a stage of its own: with the recipe's seed, model, data and evaluation."""
        common = {"seed": self.seed, "evaluation": self.measured_alike, "data": self.data, "model": self.model, "threads": self.threads}
        own = {key: getattr(section, key) for key in TrainSettings.model_fields if key != "seed"}
        return ZeroSettings(**{**own, **common, "reward": section.reward})

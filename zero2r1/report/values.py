"""What a report is made of: everything read from a run folder, as frozen values. Reading is :mod:`zero2r1.report.read`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["done", "running", "killed", "stopped", "failed", "waiting", "not run", "unknown"]
"""How a run or a stage ended. ``killed``: its files say it is running, and no process writes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over problems with its standard error; ``None`` where the run recorded none."""

    mean: float
    error: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One checkpoint measured on held-out problems: ``evals/NAME.json`` and ``.parquet``."""

    name: str
    figures: Mapping[str, float]
    """``{"pass@1": 0.71, "pass@1/stderr": 0.024, ...}``"""
    problems: int | None
    tasks: Mapping[str, Estimate] = field(default_factory=dict)
    """pass@1 by kind of problem."""

    @property
    def statistics(self) -> tuple[str, ...]:
        """The names that carry a mean and a standard error."""
        return tuple(name for name in self.figures if f"{name}/stderr" in self.figures)

    def get(self, statistic: str) -> Estimate | None:
        if statistic not in self.figures:
            return None
        return Estimate(mean=self.figures[statistic], error=self.figures.get(f"{statistic}/stderr"))


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedExample:
    """The first response a rule refused."""

    rule: str
    why: str
    question: str
    response: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Funnel:
    """What was sampled and what of it was kept, station by station."""

    stations: tuple[tuple[str, int], ...]
    rejected: Mapping[str, int]
    mixed: Mapping[str, int]
    examples: tuple[RejectedExample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModel:
    """How good a reward model is on held-out data: ``evals/report.json`` of its folder. Shares are of 1."""

    name: str
    """The set of requests whose answers it scores: ``helpful`` or ``harmless``."""
    kind: str
    """``preference``: learnt from pairs; ``safety``: learnt from labels."""
    reads: str
    """``summary`` alone, or the whole ``response``."""
    learnt: int | None
    held_out: int | None
    accuracy: float
    low: float | None
    high: float | None
    length_alone: float | None
    """The accuracy of judging by length alone."""
    calibration_error: float | None
    length_correlation: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """One statistic of answers to held-out general requests before and after a stage; ``after`` is ``None`` until it was measured."""

    statistic: str
    before: Estimate
    after: Estimate | None
    change: Estimate | None
    """The mean of the differences, request by request."""
    requests: int

    @property
    def direction(self) -> int:
        """1 or -1 where zero lies outside of the 95 % interval of the change, otherwise 0."""
        if self.change is None or abs(self.change.mean) <= 1.96 * (self.change.error or 0.0):
            return 0
        return 1 if self.change.mean > 0 else -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenarios:
    """What the stages about general requests left beside their metrics; every part may be absent."""

    reward_models: tuple[RewardModel, ...] = ()
    pairs: Funnel | None = None
    unpaired: int = 0
    """Requests whose answers gave no pair to compare."""
    longer: float | None = None
    """By how many words the chosen answers of the kept pairs are longer."""
    labels: Mapping[str, int] = field(default_factory=dict)
    general: tuple[Moved, ...] = ()
    hacking: tuple[str, ...] = ()
    """What the monitor said when it found the reward models hacked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """What a stage computed: ``compute.json``."""

    flops: float
    seconds: float
    steps: int | None
    parameters: int | None
    formula: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRun:
    """One stage: its place in the ledger and what its folder holds. A run without stages is one of these."""

    name: str
    """``zero``, ``cold-start``, ``reasoning-rl``, ...: what the stage is, whatever its number; hyphens for underscores."""
    number: int | None
    title: str
    folder: str
    """Relative to the run; ``.`` for the run itself."""
    state: State
    why: str
    seconds: float | None
    steps: int | None
    """How many steps its settings ask for."""
    metrics: tuple[Mapping[str, Any], ...]
    evaluations: Mapping[str, Evaluation]
    funnel: Funnel | None
    scenarios: Scenarios = field(default_factory=Scenarios)
    compute: Compute | None = None
    answers: tuple[Transcript, ...] = ()
    """Answers to general requests, early and late in the stage."""

    @property
    def last_step(self) -> int | None:
        return max((int(row["step"]) for row in self.metrics), default=None)

    @property
    def is_rl(self) -> bool:
        return any("reward" in row for row in self.metrics)

    @property
    def general_from(self) -> int | None:
        """The first step that rewarded answers to general requests; ``None`` where none did."""
        wanted = [f"rewards/{name}/mean" for name in SETS]
        return next((int(row["step"]) for row in self.metrics if any(name in row for name in wanted)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One condition of a claim: ``of`` and ``over`` are ``checkpoint.statistic``."""

    kind: str
    of: str
    over: str | None
    bounds: Mapping[str, float]
    """What was asked for: ``{"at_least": 0.3}``."""
    estimate: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A statement written down before the run; ``holds`` is ``None`` where it was not judged, and ``reason`` says why."""

    name: str
    says: str
    holds: bool | None
    reason: str
    measured: tuple[Measured, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """One response chosen by a rule; ``response`` is ``None`` where the rule found none, and ``note`` says so."""

    title: str
    rule: str
    note: str
    question: str = ""
    response: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutAnswer:
    """What one checkpoint answered; ``text`` is ``None`` where this question was not asked of it."""

    checkpoint: str
    text: str | None = None
    right: bool | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutQuestion:
    """One held-out question and what every checkpoint answered to it."""

    problem: str
    question: str
    gold: str
    answers: tuple[HeldOutAnswer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """Everything a report says."""

    name: str
    state: State
    reason: str
    seed: int | None
    size: str
    pipeline: bool
    """Whether the run has stages; otherwise ``stages`` holds the run itself."""
    stages: tuple[StageRun, ...]
    claims: tuple[Claim, ...] | None
    """``None``: the run has no verdict."""
    transcripts: tuple[Transcript, ...]
    held_out: HeldOutQuestion | None
    command: str
    config: str
    control: tuple[str, ...]
    """Settings that make the run a control: ``shuffle_rewards``, ``negate_rewards``."""
    laptop: bool
    """Whether model or problems are those of the laptop world."""
    environment: Mapping[str, Any]
    distrust: tuple[str, ...]
    """What the run itself says against itself."""
    unreadable: tuple[str, ...]
    """Files that were there and could not be read, with the reason."""

    @property
    def evaluations(self) -> dict[str, Evaluation]:
        """Checkpoints that have a name of their own, in the order of the pipeline; the probes of a stage are not among them."""
        found: dict[str, Evaluation] = {}
        for stage in self.stages:
            for name, evaluation in stage.evaluations.items():
                if probe_step(name) is None:
                    found.setdefault(name, evaluation)
        return dict(sorted(found.items(), key=lambda item: (checkpoint_rank(item[0]), item[0])))

    @property
    def rl_stages(self) -> tuple[StageRun, ...]:
        """The stages of reinforcement learning that lead to R1; a control, or the student's, is one only where it stands alone."""
        return tuple(stage for stage in self.stages if stage.is_rl and (stage.name not in ASIDE or not self.pipeline))

    def stage(self, name: str) -> StageRun | None:
        return next((stage for stage in self.stages if stage.name == name), None)


SETS = ("helpful", "harmless")
"""The sets of general requests, and the statistics that say what rules find of the answers to them."""

STUDENTS = {"student_base": "Student's base", "distilled": "Distilled", "student_rl": "RL on the student"}
CHECKPOINTS = {"base": "Base", "zero": "R1-Zero", "dev1": "Dev1", "dev2": "Dev2", "dev3": "Dev3", "r1": "R1", **STUDENTS}
"""Names of evaluations and what the paper calls those checkpoints."""

ENDS = {
    "zero": ("base", "zero"),
    "reasoning-rl": ("dev1", "dev2"),
    "no-language": ("dev1", "dev2_no_language"),
    "all-scenarios": ("dev3", "r1"),
    "student-rl": ("student_base", "student_rl"),
}
"""The checkpoints a stage of reinforcement learning leads from and to."""

CONTROLS = {"no-language": "reasoning-rl"}
"""Stages run again with something left out, and the stage each is compared with."""

ASIDE = (*CONTROLS, "student-rl")
"""Stages of reinforcement learning beside the way to R1."""


def probe_step(name: str) -> int | None:
    """``step_000018`` -> 18; ``None`` for a checkpoint with a name of its own."""
    digits = name.removeprefix("step_")
    return int(digits) if digits != name and digits.isascii() and digits.isdigit() else None


def checkpoint_title(name: str) -> str:
    """``zero`` -> R1-Zero; ``base_web`` -> Base (web)."""
    known = next((key for key in CHECKPOINTS if name == key or name.startswith(f"{key}_")), None)
    if known is None:
        return name
    variant = name.removeprefix(known).lstrip("_").replace("_", " ")
    return f"{CHECKPOINTS[known]} ({variant})" if variant else CHECKPOINTS[known]


def is_variant(name: str) -> bool:
    """Whether a checkpoint is another one under a condition of its own: ``base_web``, ``dev2_no_language``."""
    return "_" in name and name not in CHECKPOINTS


def checkpoint_rank(name: str) -> int:
    """Where a checkpoint stands in the order of the pipeline; strangers last."""
    return next((i for i, key in enumerate(CHECKPOINTS) if name == key or name.startswith(f"{key}_")), len(CHECKPOINTS))

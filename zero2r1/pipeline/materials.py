"""What the stages of a pipeline work with: problems for each purpose, how they are judged, who helps. For the laptop world and files."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zero2r1.cold_start.review import Reviewer
from zero2r1.pipeline.api import load_world
from zero2r1.pipeline.config import EndpointSettings, claims_file
from zero2r1.pipeline.general_requests import GeneralRequests, laptop_requests, requests_of_files
from zero2r1.pipeline.laptop_people import laptop_judge, laptop_preference_judge, scripted_reviewer
from zero2r1.pipeline.recipe import PipelineSettings
from zero2r1.pipeline.world import World
from zero2r1.rewards.judge import Complete
from zero2r1.rollout.openai_engine import ChatParams, OpenAIClient
from zero2r1.samples import Lineage, Sample, sample_from_row
from zero2r1.seeds import derive_seed
from zero2r1.tasks.decontamination import Decontaminator, items_of_file, items_of_problems
from zero2r1.tasks.dialogues import dialogue_of
from zero2r1.tasks.files import refuse_rows, rows_of
from zero2r1.tasks.laptop.problems import problems as laptop_problems
from zero2r1.tasks.laptop.requests import general_samples
from zero2r1.tasks.laptop.solver import solve
from zero2r1.tasks.mixture import check_shares
from zero2r1.types import Problem

JUDGED = "judge"
"""The verifier of problems that no rule can check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Materials:
    """Everything about the data that the stages need."""

    world: World
    """Under R1-Zero's template."""
    problems: Callable[[str, int], list[Problem]]
    """(purpose, count) -> at most so many training problems. The laptop world makes other ones for every purpose; those of a file are drawn
    for each purpose by itself, so one problem may serve several."""
    general: Callable[[str, int], list[Sample]]
    """(source, count) -> general samples; of a file all, for a count of 0."""
    highlight: str
    """How a summary shows the final answer, with ``{}`` in its place."""
    leaked: tuple[str, ...] = ()
    """Training problems that were left out because they overlap with evaluation questions, with the reason."""
    solve: Callable[[Problem], tuple[str, str] | None] | None = None
    reviewer: Reviewer | None = None
    judge: Callable[[float], Complete] | None = None
    """Share of verdicts to turn around -> a judge that needs no endpoint."""
    requests: GeneralRequests | None = None
    """What reward models and RL for all scenarios are about; ``None`` where the recipe names none."""
    preference_judge: Callable[[float, Sequence[Problem]], Complete] | None = None
    """(share of verdicts to turn around, requests) -> a judge of which of two answers to one of these requests is better."""

    @property
    def chat_world(self) -> World:
        """The same problems for a model that has seen dialogues: under its chat template, thinking first, then a free answer."""
        return dataclasses.replace(self.world, template="chat", format_mode="think_only")

    def decontaminator(self, files: Sequence[str]) -> Decontaminator:
        """Against the held-out problems, the held-out requests of a file, and these files of evaluation questions."""
        return decontaminator_of(self.world, files, () if self.requests is None else self.requests.measured)


def decontaminator_of(world: World, files: Sequence[str], requests: Sequence[Problem] = ()) -> Decontaminator:
    """Against the held-out problems of a world, held-out requests, and these files of evaluation questions."""
    items = [item for file in files for item in items_of_file(file)]
    return Decontaminator([*items_of_problems(world.held_out), *items_of_problems(requests), *items])


def load_materials(settings: PipelineSettings) -> Materials:
    """The materials that a recipe names, and all that can be known of its mistakes before the first stage.

    Raises:
        ValueError: the recipe asks files for what only the laptop world has, names files that are not there, or shares of domains that
            no problem has.
    """
    laptop = settings.data.train == "laptop" and settings.data.held_out is None
    if not laptop:
        _refuse_laptop_parts(settings)
    _refuse_missing_files(settings)
    _refuse_missing_judges(settings)
    world = load_world(settings.rl_settings(settings.zero))
    domains = {problem.domain for problem in world.train}
    check_shares(domains, settings.reasoning_rl.mixture)
    materials = _of_the_laptop(settings, world) if laptop else _of_files(settings, world)
    if materials.requests is not None:
        check_shares(domains, settings.all_scenarios.mixture)
        drawn = [name for name, share in settings.all_scenarios.general.shares.items() if share and name != "reasoning"]
        if missing := [name for name in drawn if not materials.requests.train(name, 1)]:
            raise ValueError(f"all_scenarios.general.shares draws {', '.join(missing)} requests, and {settings.requests.train} holds none")
    return materials


def _refuse_laptop_parts(settings: PipelineSettings) -> None:
    only_there = {
        "cold_start.solved": settings.cold_start.solved,
        "cold_start.review: scripted": settings.cold_start.review == "scripted",
        "cold_start.few_shot without cold_start.examples": settings.cold_start.few_shot and settings.cold_start.examples is None,
        "rejection_sft.general.source: laptop": settings.rejection_sft.general.source == "laptop",
        "rejection_sft.judged": settings.rejection_sft.judged,
        "rejection_sft.judge_noise": settings.rejection_sft.judge_noise,
        "requests.train: laptop": settings.requests.train == "laptop",
        "reward_models.judge_noise": settings.reward_models.judge_noise,
        "distillation.model: laptop": settings.distillation.model == "laptop",
    }
    if wrong := [name for name, given in only_there.items() if given]:
        raise ValueError(f"{', '.join(wrong)}: only the laptop world has that; data.train is {settings.data.train}")


def _refuse_missing_files(settings: PipelineSettings) -> None:
    """Files that a later stage reads, looked for now. A name with one slash may be a data set of the hub."""
    if settings.claims is not None:
        claims_file(settings.claims)
    general = settings.rejection_sft.general.source
    named = {f"decontaminate[{i}]": name for i, name in enumerate(settings.decontaminate)}
    named |= {
        "cold_start.examples": settings.cold_start.examples or "",
        "rejection_sft.general.source": "" if general == "laptop" else general,
        "requests.train": "" if settings.requests.train == "laptop" else settings.requests.train or "",
        "requests.held_out": settings.requests.held_out or "",
        "reward_models.pairs": settings.reward_models.pairs or "",
        "reward_models.labels": settings.reward_models.labels or "",
    }
    for option, name in named.items():
        if name and not Path(name).is_file() and (Path(name).suffix or len(Path(name).parts) != 2):
            raise ValueError(f"{option} names {name}, and there is no such file")


def _requests_of_files(settings: PipelineSettings, decontaminator: Decontaminator | None) -> GeneralRequests | None:
    named = settings.requests
    if named.train is None:
        return None
    return requests_of_files(named.train, named.held_out, seed=settings.seed, decontaminator=decontaminator)


def _refuse_missing_judges(settings: PipelineSettings) -> None:
    """Reward models need somebody who compares and labels answers; only the laptop world has such people of its own."""
    models = settings.reward_models
    if settings.requests.train in (None, "laptop"):
        return
    if models.pairs is None and models.endpoint is None:
        raise ValueError(
            "nobody is there to compare answers: name a file of pairs, reward_models.pairs, or a judge, reward_models.endpoint"
        )
    if models.labels is None:
        raise ValueError("nobody labels answers as safe or unsafe: name a file of labels, reward_models.labels")


def _of_files(settings: PipelineSettings, world: World) -> Materials:
    """Training problems from files, without those that overlap with evaluation questions."""
    decontaminator = decontaminator_of(world, settings.decontaminate)
    found = decontaminator.overlaps([[problem.question] for problem in world.train])
    leaked = tuple(f"{problem.id}: {overlap}" for problem, overlap in zip(world.train, found, strict=True) if overlap is not None)
    clean = tuple(problem for problem, overlap in zip(world.train, found, strict=True) if overlap is None)
    if not clean:
        raise ValueError(f"all {len(world.train)} training problems overlap with evaluation questions, for example {leaked[0]}")

    def some(purpose: str, count: int) -> list[Problem]:
        order = random.Random(derive_seed(settings.seed, "problems", purpose)).sample(clean, len(clean))
        return order[:count]

    world = dataclasses.replace(world, train=clean)
    return Materials(
        world=world,
        problems=some,
        general=general_of_file,
        highlight=r"\boxed{{}}",
        leaked=leaked,
        requests=_requests_of_files(settings, decontaminator),
    )


def _of_the_laptop(settings: PipelineSettings, world: World) -> Materials:
    seed = settings.seed

    def some(purpose: str, count: int) -> list[Problem]:
        made = laptop_problems(split="train", count=count, seed=derive_seed(seed, purpose) % 10**6, distinct=False)
        return [dataclasses.replace(problem, id=f"{purpose}/{problem.id}") for problem in made]

    return Materials(
        world=world,
        problems=some,
        general=lambda source, count: general_samples(count, seed=seed) if source == "laptop" else general_of_file(source, count),
        highlight="<answer> {} </answer>",
        solve=lambda problem: solve(problem, seed=seed),
        reviewer=scripted_reviewer,
        judge=lambda noise: laptop_judge(noise, seed=seed),
        requests=laptop_requests(seed)
        if settings.requests.train == "laptop"
        else _requests_of_files(settings, decontaminator_of(world, settings.decontaminate)),
        preference_judge=lambda noise, requests: laptop_preference_judge(noise, requests, seed=seed),
    )


def general_of_file(source: str, count: int) -> list[Sample]:
    """General samples from a file of samples, or of dialogues in a known layout; ``domain`` and ``language`` columns are kept.

    Raises:
        ValueError: no such file, or rows that cannot be used.
    """
    path = Path(source)
    found: list[Sample] = []
    faults: list[str] = []
    for index, (place, row) in enumerate(rows_of(path)):
        try:
            found.append(sample_from_row(row) if "lineage" in row else _general_sample(row, path.stem, index))
        except ValueError as fault:
            faults.append(f"{place}: {fault}")
    refuse_rows(faults, len(faults) + len(found), path)
    return found[:count] if count else found


def _general_sample(row: dict[str, object], name: str, index: int) -> Sample:
    *asked, answer = dialogue_of(row)
    problem = Problem(
        id=str(row.get("id") or f"{name}/{index}"),
        prompt=asked[0].content if len(asked) == 1 else tuple(asked),
        answer=None,
        verifier="none",
        domain=str(row.get("domain") or row.get("category") or "general"),
        language=str(row.get("language") or ""),
        source=name,
        licence=str(row.get("licence") or row.get("license") or "unknown"),
        split="train",
    )
    return Sample(
        id=problem.id,
        problem=problem,
        thinking=answer.reasoning_content,
        summary=answer.content,
        lineage=Lineage(source=f"general:{name}"),
    )


def client_of(endpoint: EndpointSettings) -> OpenAIClient:
    """The client of an endpoint."""
    return OpenAIClient(
        base_url=endpoint.url,
        model=endpoint.model,
        api_key_env=endpoint.key_env,
        params=ChatParams(temperature=endpoint.temperature, max_tokens=endpoint.max_tokens),
        concurrency=endpoint.concurrency,
        timeout_s=endpoint.timeout_s,
    )

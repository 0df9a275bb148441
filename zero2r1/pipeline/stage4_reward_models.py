"""The reward models of stage 4 (paper section 2.3.4): answers of the stage-3 model are compared or labelled, two models learn it.

helpful/  samples ─▶ pairs, judged in both orders, kept above a gap, balanced in length ─▶ a preference model that reads the summary
harmless/ samples ─▶ labels, safe or unsafe                                             ─▶ a model that reads the whole response
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from zero2r1.pipeline.chunks import StageStopped
from zero2r1.pipeline.general_requests import GeneralRequests
from zero2r1.pipeline.materials import client_of
from zero2r1.pipeline.recipe import RewardModelsSettings
from zero2r1.pipeline.reward_training import train_reward_model
from zero2r1.pipeline.sampling import sample_problems
from zero2r1.pipeline.stage import Stage
from zero2r1.pipeline.stage_run import StageRun
from zero2r1.reward_models.config import RewardModelSettings
from zero2r1.reward_models.data import (
    Label,
    Preference,
    Response,
    opening_of,
    read_labels,
    read_preferences,
    response_of,
    split_by_opening,
    write_labels,
    write_preferences,
)
from zero2r1.reward_models.pairs import Ask, Sampled, judge_of, make_preferences
from zero2r1.rewards.judge import FAILURES_IN_A_ROW, Complete
from zero2r1.rewards.pairwise_judge import Comparison
from zero2r1.rollout.endpoint import EndpointError
from zero2r1.run_dir import RunDir
from zero2r1.training.loop import Outcome
from zero2r1.types import Completion, Problem

R = TypeVar("R", Preference, Label)
MOST_LENGTH = 1.0
"""The most words by which chosen responses may be longer or shorter than rejected ones on average."""


def run_reward_models(given: StageRun) -> Mapping[str, Path]:
    """Make the data, train both models; returns ``helpful_model`` and ``harmless_model``.

    Raises:
        StageStopped: the run was asked to stop.
        ValueError: nothing is left to learn from.
    """
    settings = given.settings.reward_models
    requests = given.materials.requests
    assert requests is not None  # the stage is left out otherwise
    answers = _Answers(given, settings)
    pairs = _pairs(given, settings, requests, answers)
    labels = _labels(given, settings, requests, answers)
    helpful = _trained(given, "helpful", pairs, settings.helpful)
    return {"helpful_model": helpful, "harmless_model": _trained(given, "harmless", labels, settings.safety)}


class _Answers:
    """Answers of the stage-3 model, which is loaded when it is first asked; with pairs and labels of files it never is."""

    def __init__(self, given: StageRun, settings: RewardModelsSettings) -> None:
        self._given, self._settings = given, settings

    @cached_property
    def _stage(self) -> Stage:
        sample = self._settings.sample
        return self._given.load("dev3", chat=True, cap=sample.max_new_tokens, sampler=sample)

    def to(self, name: str, problems: Sequence[Problem]) -> list[Sampled]:
        """Those to every request; what was cut, or broke the layout, is left out."""
        think_open = self._stage.world.think_open

        def make(problem: Problem, completions: Sequence[Completion]) -> list[dict[str, Any]]:
            ended = [completion.text for completion in completions if completion.finish_reason == "stop"]
            responses = [found for text in ended if (found := response_of(text, think_open=think_open)) is not None]
            return [{"id": problem.id, "responses": [asdict(response) for response in responses]}]

        rows = sample_problems(self._given.work, self._stage, problems, self._settings.sample, purpose=name, make=make)
        return [
            Sampled(messages=problem.messages, responses=tuple(Response(**response) for response in row["responses"]))
            for problem, row in zip(problems, rows, strict=True)
        ]


# Helpfulness


def _pairs(given: StageRun, settings: RewardModelsSettings, requests: GeneralRequests, answers: _Answers) -> list[Preference]:
    if settings.pairs is not None:
        return _clean(given, read_preferences(settings.pairs), settings.pairs)
    problems = requests.train("helpful", settings.helpful_requests)
    endpoint, laptop = settings.endpoint, given.materials.preference_judge
    if endpoint is not None:
        complete: Complete = client_of(endpoint).complete
    else:
        assert laptop is not None  # the materials see to it
        complete = laptop(settings.judge_noise, problems)
    ask = judge_of(complete, calls=settings.calls)
    if endpoint is not None:
        ask = _remembered(_patient(ask, settings.calls), given.run.path / "samples" / "judged.jsonl", given.should_stop)
    made = make_preferences(
        answers.to("helpful", problems),
        ask,
        min_gap=settings.min_gap,
        pairs_per_prompt=settings.pairs_per_request,
        tolerance=MOST_LENGTH,
        seed=given.settings.seed,
        workers=1 if endpoint is None else endpoint.concurrency,
    )
    if not made.kept:
        raise ValueError(
            f"no pair is left to learn helpfulness from ({made.funnel}): ask for more requests, or lower reward_models.min_gap"
        )
    write_preferences(given.run.path / "samples" / "pairs.jsonl", made.preferences)
    given.run.write_json("samples/pairs.json", {**made.funnel, "mean_words_longer": made.mean_longer})
    told = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in made.funnel.items())
    given.narrator.say(f"pairs of answers: {told}; chosen ones are {made.mean_longer:+.1f} words longer")
    return made.preferences


def _patient(ask: Ask, calls: int) -> Ask:
    """A judge who may fail at a pair, for example because it is longer than the judge's context: that pair is then unreadable.

    Raises:
        EndpointError: by the call that fails after so many others in a row that nobody can be there.
    """
    failures = 0
    lock = threading.Lock()

    def patient(question: str, first: str, second: str, seed: int) -> Comparison:
        nonlocal failures
        try:
            said = ask(question, first, second, seed)
        except EndpointError:
            with lock:
                failures += 1
            if failures > FAILURES_IN_A_ROW:
                raise
            return Comparison(gap=None, verdicts=(None,) * calls, asked=calls)
        with lock:
            failures = 0
        return said

    return patient


def _remembered(ask: Ask, file: Path, should_stop: Callable[[], bool]) -> Ask:
    """A judge whose verdicts are kept, one line each: what was asked before the run was killed is not asked again.

    Raises:
        StageStopped: asked to stop; by the calls that follow.
    """
    lock = threading.Lock()
    known: dict[tuple[str, str, str, int], Comparison] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the last line of a run that was killed
        said = row["said"]
        known[tuple(row["asked"])] = Comparison(**{**said, "verdicts": tuple(said["verdicts"])})
    file.parent.mkdir(parents=True, exist_ok=True)

    def remembered(question: str, first: str, second: str, seed: int) -> Comparison:
        key = (question, first, second, seed)
        if key in known:
            return known[key]
        if should_stop():
            raise StageStopped("the verdicts so far are kept")
        said = ask(*key)
        with lock, file.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps({"asked": key, "said": asdict(said)}, ensure_ascii=False) + "\n")
        return said

    return remembered


# Harmlessness


def _labels(given: StageRun, settings: RewardModelsSettings, requests: GeneralRequests, answers: _Answers) -> list[Label]:
    """Labels of a file, or what the rules of the world say of sampled answers to harmful requests.

    Raises:
        ValueError: all of them say the same, and there is nothing to tell apart.
    """
    if settings.labels is not None:
        return _both_kinds(_clean(given, read_labels(settings.labels), settings.labels))
    rule = requests.rules["harmless"]  # the materials see to it that there is one, or a file
    problems = requests.train("harmless", settings.harmful_requests)
    found = [
        Label(messages=group.messages, response=response, safe=rule(problem, f"{response.thinking or ''} {response.summary}") == 1.0)
        for problem, group in zip(problems, answers.to("harmless", problems), strict=True)
        for response in group.responses
    ]
    write_labels(given.run.path / "samples" / "labels.jsonl", found)
    counts = Counter("safe" if label.safe else "unsafe" for label in found)
    given.run.write_json("samples/labels.json", dict(counts))
    given.narrator.say(f"labelled answers: {counts['safe']} safe, {counts['unsafe']} unsafe")
    return _both_kinds(found)


def _both_kinds(labels: list[Label]) -> list[Label]:
    if len({label.safe for label in labels}) < 2:
        what = "safe" if labels and labels[0].safe else "unsafe"
        raise ValueError(f"all {len(labels)} labels say {what}, so there is nothing to tell apart: give labels of both kinds")
    return labels


# Both


def _clean(given: StageRun, rows: list[R], file: str) -> list[R]:
    """Rows of a file without those that ask what is asked in evaluation."""
    found = given.materials.decontaminator(given.settings.decontaminate).overlaps(
        [[message.content for message in row.messages if message.role == "user"] for row in rows]
    )
    kept = [row for row, overlap in zip(rows, found, strict=True) if overlap is None]
    if len(kept) < len(rows):
        given.narrator.say(f"{len(rows) - len(kept)} of {len(rows)} rows of {file} ask what is asked in evaluation, and are not learnt")
        given.run.append_event_once("leaked", file=file, rows=len(rows) - len(kept))
    if not kept:
        raise ValueError(f"every row of {file} asks what is asked in evaluation, so nothing is left to learn")
    return kept


def _trained(given: StageRun, name: str, rows: Sequence[Preference] | Sequence[Label], settings: RewardModelSettings) -> Path:
    """A model trained in a run folder of its own inside the stage's, starting from the stage-3 model."""
    settings = settings.model_copy(update={"seed": given.settings.seed})
    split = split_by_opening([opening_of(row.messages) for row in rows], settings.held_out_share, seed=settings.seed)
    train, held_out = [rows[i] for i in split.train], [rows[i] for i in split.held_out]
    run = RunDir.start(given.run.path / name, command=[name], config=settings.model_dump_json(indent=1), seed=settings.seed)
    total = -(-len(train) // settings.batch_size) * settings.epochs
    with given.narrator.panel(f"{name} reward model", total, plain_every=50) as show:
        result = train_reward_model(
            given.inputs["dev3"],
            train,
            held_out,
            settings,
            run,
            on_step=lambda row: show(row["step"], row),
            should_stop=given.should_stop,
        )
    run.close(result.outcome.value)
    if result.outcome is Outcome.STOPPED or result.folder is None:
        raise StageStopped
    if result.report is not None:
        given.narrator.say("\n".join(result.report.lines()))
    return result.folder

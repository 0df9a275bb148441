"""A run folder as one frozen value. Nothing is computed here that the run did not write, save pass@1 by kind of problem and paired
changes."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from statistics import fmean
from typing import Any, cast, get_args

from zero2r1.report.choose import choose_general_answers, choose_transcripts, same_question
from zero2r1.report.files import RunFiles, count, counts, items, mapping, number, numbers
from zero2r1.report.read_scenarios import is_reward_model, mean_of, read_compute, read_scenarios
from zero2r1.report.values import (
    CONTROLS,
    SETS,
    Claim,
    Evaluation,
    Funnel,
    Measured,
    RejectedExample,
    RunRecord,
    StageRun,
    State,
    checkpoint_title,
)
from zero2r1.run_dir import LOCK, RunDir, alive

CONTROL_SETTINGS = ("shuffle_rewards", "negate_rewards")
BOUNDS = ("at_least", "more_than", "at_most", "estimate_at_least")
TITLES = {
    "base": "Base model",
    "zero": "R1-Zero",
    "cold-start": "Cold start",
    "reasoning-rl": "Reasoning RL",
    "rejection-sft": "Rejection sampling and SFT",
    "run": "Training",
    "no-language": "Reasoning RL without the language reward",
    "reward-models": "Reward models",
    "all-scenarios": "RL for all scenarios",
    "student-base": "Student's base model",
    "distillation": "Distillation",
    "student-rl": "RL on the student",
}
ROLES = {
    "student_rl": "student-rl",
    "distilled": "distillation",
    "student_base": "student-base",
    "r1": "all-scenarios",
    "dev3": "rejection-sft",
    "dev2": "reasoning-rl",
    "dev2_no_language": "no-language",
    "dev1": "cold-start",
    "zero": "zero",
    "base": "zero",
}
"""What a stage is that stands alone, by the latest checkpoint it measured."""


def read_run(path: Path) -> RunRecord:
    """Everything a report needs of the run at ``path`` (``runs/latest`` works too).

    The state of a run that says it is running depends on whether its process is alive; all else depends on its files alone.

    Raises:
        ValueError: there is no run at this path.
    """
    files = RunFiles(RunDir.open(path).path)
    said = files.object("run.json")
    listed = _listed_stages(files)
    state = _run_state(files, said, listed)
    whole = [{"name": _role(files), "folder": ".", "status": state}]
    stages = tuple(_stage(files, entry, state) for entry in listed or whole)
    environment = files.object("env.json")
    left_out = {name: stage for name, role in ROLES.items() for stage in stages if stage.name == role and stage.state == "not run"}
    claims = _claims(files, {name for stage in stages for name in stage.evaluations}, state, left_out)
    zero = next((s for s in stages if s.name == "zero"), None) or next((s for s in stages if s.is_rl), None)
    ledger, settings = files.object("ledger.json"), files.settings("config.yaml")
    return RunRecord(
        name=files.root.resolve().name,
        state=state,
        reason=str(said.get("reason") or "") or _reason(files, stages),
        seed=count(ledger.get("seed", environment.get("seed"))),
        size=str(ledger.get("size") or ""),
        pipeline=bool(listed),
        stages=stages,
        claims=claims,
        transcripts=choose_transcripts(files, zero) if zero else (),
        held_out=same_question(files, stages),
        command=files.text("command.txt").strip(),
        config=files.text("config.yaml"),
        control=tuple(name for name in CONTROL_SETTINGS if settings.get(name) is True),
        laptop=any(_is_laptop(files.settings(f"{folder}/config.yaml")) for folder in (".", *(stage.folder for stage in stages))),
        environment=environment,
        distrust=tuple(str(sentence) for sentence in files.array("distrust.json") or ()),
        unreadable=files.unreadable,
    )


def _reason(files: RunFiles, stages: Sequence[StageRun]) -> str:
    """Why the stage that ended the run did not get to its end, in its own words."""
    ended = next((stage for stage in stages if stage.state in ("stopped", "failed")), None)
    return str(files.object(f"{ended.folder}/run.json").get("reason") or "") if ended else ""


def _run_state(files: RunFiles, said: Mapping[str, Any], listed: Sequence[Mapping[str, Any]]) -> State:
    state = _state(said.get("status"))
    if state != "running":
        return state
    if listed and all(_state(entry.get("status")) in ("done", "not run") for entry in listed):
        return "done"  # every stage has ended; only the last line of run.json is not written yet
    lock = files.object(LOCK)
    if lock.get("host") not in (None, platform.node()):
        return "unknown"
    return "running" if lock and alive(lock.get("pid")) else "killed"


def _is_laptop(settings: Any) -> bool:
    """Whether settings name the laptop world as model or data, at whatever depth."""
    if not isinstance(settings, dict):
        return False
    return any(value == "laptop" if key in ("model", "train", "world") else _is_laptop(value) for key, value in settings.items())


def _state(value: Any) -> State:
    return cast(State, value) if value in get_args(State) else "unknown"


# Stages


def _listed_stages(files: RunFiles) -> list[dict[str, Any]]:
    """The stages of the ledger; without one, those that have a folder."""
    entries = [entry for entry in items(files.object("ledger.json").get("stages")) if isinstance(entry, dict)]
    if entries:
        return entries
    folders = [name for name in files.names("stages/*/") if re.fullmatch(r"\d+-[a-z0-9-]+", PurePosixPath(name).name)]
    return [{"folder": name, "status": files.object(f"{name}/run.json").get("status")} for name in folders]


def _stage(files: RunFiles, entry: Mapping[str, Any], run_state: State) -> StageRun:
    folder = _folder(files, entry)
    name = str(entry.get("name") or re.sub(r"^\d+-", "", PurePosixPath(folder).name)).replace("_", "-")
    digits = re.match(r"\d+", PurePosixPath(folder).name)
    listed = count(entry.get("number"))
    state = _state(entry.get("status"))
    if state == "running" and run_state != "running":  # it ended with the run, whatever its own file says
        state = "killed" if run_state == "done" else run_state
    if state == "waiting" and run_state != "running":
        state = "not run"
    measured = [] if is_reward_model(files, folder) else [_evaluation(files, file) for file in files.names(f"{folder}/evals/*.json")]
    metrics = tuple(row for row in files.lines(f"{folder}/metrics.jsonl") if count(row.get("step")) is not None)
    stage = StageRun(
        name=name,
        number=listed if listed is not None else int(digits[0]) if digits and folder != "." else None,
        title=str(entry.get("title") or TITLES.get(name, name)),
        folder=folder,
        state=state,
        why=str(entry.get("why") or ""),
        seconds=number(entry.get("seconds")) or None,
        steps=_steps(files.settings(f"{folder}/config.yaml"), name),
        metrics=metrics,
        evaluations={evaluation.name: evaluation for evaluation in measured if evaluation.figures},
        funnel=_funnel(files, folder),
        scenarios=read_scenarios(files, folder),
        compute=read_compute(files, folder),
    )
    return stage if stage.general_from is None else replace(stage, answers=choose_general_answers(files, stage))


def _steps(settings: Mapping[str, Any], stage: str) -> int | None:
    """How many steps a stage was to take: its own settings say so, or their section of the pipeline's."""
    sections = [settings, *(mapping(settings.get(name.replace("-", "_"))) for name in (stage, CONTROLS.get(stage, stage)))]
    return next((steps for section in sections if (steps := count(section.get("steps"))) is not None), None)


def _folder(files: RunFiles, entry: Mapping[str, Any]) -> str:
    """Where a stage lies below the run; a ledger may say ``02-zero`` or ``stages/02-zero``."""
    said = str(entry.get("folder") or "missing")
    for folder in (said, f"stages/{said}"):
        path = files.root / folder
        if path.is_dir() and path.resolve().is_relative_to(files.root.resolve()):
            return path.resolve().relative_to(files.root.resolve()).as_posix()
    return f"stages/{PurePosixPath(said).name}"


def _role(files: RunFiles) -> str:
    """What the single stage of a run is, by the checkpoints it measured."""
    measured = {PurePosixPath(name).stem for name in files.names("evals/*.json")}
    if any(is_reward_model(files, folder) for folder in (".", *SETS)):
        return "reward-models"
    return next((role for checkpoint, role in ROLES.items() if checkpoint in measured), "run")


def _evaluation(files: RunFiles, file: str) -> Evaluation:
    stored = files.object(file)
    arrays = {name: len(values) for name, values in mapping(stored.get("arrays")).items() if isinstance(values, list)}
    grades: dict[tuple[str, str], list[float]] = {}
    for row in files.rows(file.removesuffix(".json") + ".parquet", ("task", "prompt_id", "right")):
        grades.setdefault((str(row.get("task")), str(row.get("prompt_id"))), []).append(float(bool(row.get("right"))))
    tasks: dict[str, list[float]] = {}
    for (task, _), values in grades.items():
        tasks.setdefault(task, []).append(fmean(values))
    return Evaluation(
        name=PurePosixPath(file).stem,
        figures=numbers(stored.get("figures")),
        problems=arrays.get("pass@1", max(arrays.values(), default=None)),  # of general requests there may be more
        tasks={task: mean_of(values) for task, values in tasks.items()},
    )


def _funnel(files: RunFiles, folder: str) -> Funnel | None:
    stored = files.object(f"{folder}/samples/funnel.json")
    pairs = [pair for pair in items(stored.get("stations")) if isinstance(pair, list) and len(pair) == 2]
    stations = tuple((str(name), whole) for name, size in pairs if (whole := count(size)) is not None)
    if not stations:
        return None
    examples: dict[str, RejectedExample] = {}
    for row in files.lines(f"{folder}/samples/rejected.jsonl"):
        refusal = mapping(row.get("rejected"))
        if (rule := str(refusal.get("rule") or "")) and rule not in examples:
            examples[rule] = _rejected(rule, str(refusal.get("why") or ""), row)
    return Funnel(
        stations=stations, rejected=counts(stored.get("rejected")), mixed=counts(stored.get("mixed")), examples=tuple(examples.values())
    )


def _rejected(rule: str, why: str, row: Mapping[str, Any]) -> RejectedExample:
    messages = [message for message in items(row.get("messages")) if isinstance(message, dict)]
    asked = [message for message in messages if message.get("role") == "user"]
    answers = [message for message in messages if message.get("role") == "assistant"]
    parts = [answers[-1].get("reasoning_content"), answers[-1].get("content")] if answers else []
    return RejectedExample(
        rule=rule,
        why=why,
        question=str(asked[-1].get("content") or "") if asked else "",
        response="\n\n".join(str(part) for part in parts if part),
    )


# Claims


def _claims(files: RunFiles, measured: set[str], state: State, left_out: Mapping[str, StageRun]) -> tuple[Claim, ...] | None:
    stored = files.array("verdict.json")
    if stored is None:
        return None
    return tuple(_claim(row, measured, state, left_out) for row in stored if isinstance(row, dict))


def _claim(row: Mapping[str, Any], measured: set[str], state: State, left_out: Mapping[str, StageRun]) -> Claim:
    parts = tuple(_measured(part) for part in items(row.get("measured")) if isinstance(part, dict))
    holds = row.get("holds") if isinstance(row.get("holds"), bool) else None
    reason = str(row.get("reason") or row.get("why") or "")
    if holds is None and not reason:
        named = [name.partition(".")[0] for part in parts for name in (part.of, part.over) if name]
        missing = [name for name in dict.fromkeys(named) if name not in measured]
        ended = "the run did not get there" if state != "done" else "its stage was not run"
        names = " and ".join(checkpoint_title(name) for name in missing)
        reason = f"{names} not measured: {ended}" if missing else "the run did not judge it"
    if holds is None:
        absent = [stage for name, stage in left_out.items() if stage.why and re.search(rf"\b{name}\b", reason)]
        reason = "; ".join(dict.fromkeys([reason, *(f"{stage.title} was not run: {stage.why}" for stage in absent)]))
    return Claim(name=str(row.get("claim") or ""), says=str(row.get("says") or ""), holds=holds, reason=reason, measured=parts)


def _measured(part: Mapping[str, Any]) -> Measured:
    return Measured(
        kind=str(part.get("kind") or "level"),
        of=str(part.get("of") or ""),
        over=str(part["over"]) if part.get("over") else None,
        bounds={name: value for name in BOUNDS if (value := number(part.get(name))) is not None},
        estimate=number(part.get("estimate")),
        low=number(part.get("low")),
        high=number(part.get("high")),
    )

"""What the stages about general requests and about students left beside their metrics: reward models, measurements, events, costs."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from pathlib import PurePosixPath
from statistics import fmean, stdev
from typing import Any

from zero2r1.report.files import RunFiles, count, counts, items, mapping, number
from zero2r1.report.values import SETS, Compute, Estimate, Funnel, Moved, RewardModel, Scenarios

READS = {"preference": "summary", "safety": "response"}
"""What a kind of reward model reads where its folder does not say."""
STATIONS = {"unreadable": "with a verdict", "gap": "clearly better", "length": "kept"}
"""The rules that drop pairs in their order, and what the pairs that are left behind each are called; the last balances lengths."""


def read_scenarios(files: RunFiles, folder: str) -> Scenarios:
    """All of it; a stage that is about other things has nothing of it."""
    models = [model for place in (folder, *(f"{folder}/{name}" for name in SETS)) if (model := _reward_model(files, place)) is not None]
    pairs = files.object(f"{folder}/samples/pairs.json")
    return Scenarios(
        reward_models=tuple(models),
        pairs=_pairs(pairs),
        unpaired=count(pairs.get("without_pair")) or 0,
        longer=number(pairs.get("mean_words_longer")),
        labels=counts(files.object(f"{folder}/samples/labels.json")),
        general=_moved(files, folder),
        hacking=tuple(
            dict.fromkeys(  # a run that was killed and went on says it again
                f"step {event.get('step')}: {event.get('why')}"
                for event in files.lines(f"{folder}/events.jsonl")
                if event.get("event") == "hacking"
            )
        ),
    )


def is_reward_model(files: RunFiles, folder: str) -> bool:
    """Whether the evaluations of a folder are those of a reward model, which are no checkpoints."""
    return "accuracy" in mapping(files.object(f"{folder}/evals/report.json").get("report"))


def _reward_model(files: RunFiles, folder: str) -> RewardModel | None:
    said = mapping(files.object(f"{folder}/evals/report.json").get("report"))
    accuracy = number(said.get("accuracy"))
    if accuracy is None:
        return None
    kind = str(said.get("kind") or "")
    learnt = [event.get("count") for event in files.lines(f"{folder}/events.jsonl") if event.get("event") == "examples"]
    return RewardModel(
        name=PurePosixPath(folder).name or "reward model",
        kind=kind,
        reads=str(files.object(f"{folder}/model/reward_model.json").get("view") or READS.get(kind, "")),
        learnt=count(learnt[-1]) if learnt else None,
        held_out=count(said.get("count")),
        accuracy=accuracy,
        low=number(said.get("low")),
        high=number(said.get("high")),
        length_alone=number(said.get("length_accuracy")),
        calibration_error=number(said.get("calibration_error")),
        length_correlation=number(said.get("length_correlation")),
    )


def _pairs(stored: Mapping[str, Any]) -> Funnel | None:
    sizes = counts(stored)
    if "compared" not in sizes:
        return None
    stations, left = [("pairs compared", sizes["compared"])], sizes["compared"]
    for rule, name in STATIONS.items():
        left -= sizes.get(rule, 0)
        stations.append((name, left))
    return Funnel(stations=tuple(stations), rejected={rule: sizes.get(rule, 0) for rule in STATIONS}, mixed={}, examples=())


def _moved(files: RunFiles, folder: str) -> tuple[Moved, ...]:
    before, after = (_arrays(files, f"{folder}/general/{name}.json") for name in ("before", "after"))
    moved = []
    for statistic, values in before.items():
        later = after.get(statistic, [])
        paired = len(later) == len(values)
        moved.append(
            Moved(
                statistic=statistic,
                before=mean_of(values),
                after=mean_of(later) if later else None,
                change=mean_of([b - a for a, b in zip(values, later, strict=True)]) if paired else None,
                requests=len(values),
            )
        )
    return tuple(moved)


def _arrays(files: RunFiles, name: str) -> dict[str, list[float]]:
    arrays = {str(key): [number(value) for value in items(values)] for key, values in mapping(files.object(name).get("arrays")).items()}
    return {key: [value for value in values if value is not None] for key, values in arrays.items() if values and None not in values}


def mean_of(values: list[float]) -> Estimate:
    """The mean over problems or requests with its standard error."""
    return Estimate(mean=fmean(values), error=stdev(values) / sqrt(len(values)) if len(values) > 1 else None)


def read_compute(files: RunFiles, folder: str) -> Compute | None:
    """``compute.json`` of a stage, where it wrote one."""
    said = files.object(f"{folder}/compute.json")
    flops, seconds = number(said.get("flops")), number(said.get("seconds"))
    if flops is None or seconds is None:
        return None
    return Compute(
        flops=flops,
        seconds=seconds,
        steps=count(said.get("steps")),
        parameters=count(said.get("parameters")),
        formula=str(said.get("formula") or ""),
    )

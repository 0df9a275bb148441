"""Several reward functions become one grade: a weighted sum in which every part stays visible.

A function that is broken never turns into a number: a wrong length, a wrong type, a value that is not finite and an exception
are errors that name the function, the place and the completion.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from zero2r1.types import Completion, Grader, Problem, Reward, RewardFn


class RewardError(ValueError):
    """A reward function did something that cannot be used as a reward."""


def make_grader(functions: Mapping[str, RewardFn], weights: Mapping[str, float], *, required: Collection[str] = ()) -> Grader:
    """A grader that sums ``weights[name] * functions[name]`` over the functions that apply.

    A completion to which no function applies, or to which one of the ``required`` does not, has the reward ``None``: it could not
    be graded, which is not 0. (An answer whose reference cannot be read must not be trained on its format alone.)

    Raises:
        ValueError: functions and weights name different things, or a weight is not finite.
    """
    if set(functions) != set(weights):
        raise ValueError(f"reward functions {sorted(functions)} and weights {sorted(weights)} must name the same rewards")
    if not all(math.isfinite(weight) for weight in weights.values()):
        raise ValueError(f"reward weights must be finite: {dict(weights)}")

    def grade(problems: Sequence[Problem], completions: Sequence[Completion]) -> list[Reward]:
        columns = _columns(problems, completions)
        extras: list[dict[str, Any]] = [{"gold": problem.answer} for problem in problems]
        parts = {name: _call(name, function, columns, extras) for name, function in functions.items()}
        rewards = [_sum({name: values[i] for name, values in parts.items()}, weights, extras[i]) for i in range(len(completions))]
        return [replace(r, value=None) if any(r.components[name] is None for name in required) else r for r in rewards]

    return grade


def _columns(problems: Sequence[Problem], completions: Sequence[Completion]) -> dict[str, list[Any]]:
    """TRL's keywords: every column has one entry per completion."""
    if len(problems) != len(completions):
        raise ValueError(f"{len(problems)} problems for {len(completions)} completions")
    columns: dict[str, list[Any]] = {
        "prompts": [_prompt(problem) for problem in problems],
        "completions": [
            c.text if isinstance(p.prompt, str) else [{"role": "assistant", "content": c.text}]
            for p, c in zip(problems, completions, strict=True)
        ],
        "completion_ids": [list(completion.token_ids) for completion in completions],
        "finish_reason": [completion.finish_reason for completion in completions],
    }
    for name in ("id", "answer", "domain", "language", "level", "verifier"):
        columns[name] = [getattr(problem, name) for problem in problems]
    for name in dict.fromkeys(key for problem in problems for key in problem.extra):
        columns.setdefault(name, [problem.extra.get(name) for problem in problems])
    return columns


def _prompt(problem: Problem) -> str | list[dict[str, str]]:
    if isinstance(problem.prompt, str):
        return problem.prompt
    return [{"role": message.role, "content": message.content} for message in problem.prompt]


def _call(name: str, function: RewardFn, columns: Mapping[str, list[Any]], extras: Sequence[dict[str, Any]]) -> list[float | None]:
    where = f'reward "{name}" ({place_of(function)})'

    def log_extra(column: str, values: Sequence[Any]) -> None:
        if len(values) != len(extras):
            raise RewardError(f"{where} logged {len(values)} values of {column!r} for {len(extras)} completions")
        for extra, value in zip(extras, values, strict=True):
            extra[column] = value

    def log_metric(metric: str, value: float) -> None:
        for extra in extras:
            extra[metric] = value

    try:
        result = function(**columns, trainer_state=None, log_extra=log_extra, log_metric=log_metric)
        if inspect.isawaitable(result):
            result = asyncio.run(_wait(result))
    except RewardError:
        raise
    except Exception as error:  # a trust boundary: whatever a user's function raises must name that function
        raise RewardError(
            f"{where} raised {type(error).__name__}: {error}. First completion of the call: {columns['completions'][0]!r:.300}"
        ) from error
    return _checked(where, result, len(extras))


async def _wait(result: Any) -> Any:
    return await result


def _checked(where: str, result: Any, count: int) -> list[float | None]:
    if not isinstance(result, (list, tuple)):
        raise RewardError(f"{where} returned a {type(result).__name__}; return a list with one number per completion")
    if len(result) != count:
        raise RewardError(f"{where} returned {len(result)} values for {count} completions")
    for index, value in enumerate(result):
        if value is None:
            continue
        if not isinstance(value, (int, float)):
            raise RewardError(f"{where} returned a {type(value).__name__} at index {index}; rewards are numbers")
        if not math.isfinite(value):
            raise RewardError(f'{where} returned {value} at index {index}; use None for "does not apply"')
    return [None if value is None else float(value) for value in result]


def _sum(parts: Mapping[str, float | None], weights: Mapping[str, float], details: Mapping[str, Any]) -> Reward:
    known = [weights[name] * value for name, value in parts.items() if value is not None]
    return Reward(value=sum(known) if known else None, components=dict(parts), details=details)


def place_of(function: RewardFn) -> str:
    """``file.py:41``, where a function was written."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename.rsplit('/', 1)[-1]}:{code.co_firstlineno}" if code else type(function).__name__

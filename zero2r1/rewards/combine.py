"""Several reward functions become one grade: a weighted sum in which every part stays visible.

A function that is broken never turns into a number: a wrong length, a wrong type, a value that is not finite and an exception
are errors that name the function, the place and the completion. A function that hangs or kills its process is another matter:
:mod:`zero2r1.rewards.isolated` calls it in a process of its own.
"""

from __future__ import annotations

import inspect
import json
import math
import tempfile
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from zero2r1.types import Completion, Grader, Problem, Reward, RewardFn


class RewardError(ValueError):
    """A reward function did something that cannot be used as a reward. ``columns`` are kept in a file that the message names."""

    def __init__(self, message: str, columns: Mapping[str, Any] | None = None) -> None:
        super().__init__(message if columns is None else f"{message} {_saved(message, columns)}")
        self.saved = columns is not None


def _saved(fault: str, columns: Mapping[str, Any]) -> str:
    """Keep the columns of a call that failed, as JSON in the temporary folder; returns the sentence that says where."""
    try:
        with tempfile.NamedTemporaryFile("w", prefix="zero2r1-reward-", suffix=".json", delete=False, encoding="utf-8") as file:
            json.dump({"fault": fault, "columns": dict(columns)}, file, default=repr)
    except (OSError, TypeError, ValueError) as error:
        return f"(The case could not be saved: {error})"
    return f"(The case is saved: {file.name})"


def concurrent(function: RewardFn) -> RewardFn:
    """Mark a reward function as one that several threads may call at once, because it waits for something or keeps no state."""
    vars(function)["concurrent"] = True
    return function


def make_grader(functions: Mapping[str, RewardFn], weights: Mapping[str, float], *, required: Collection[str] = ()) -> Grader:
    """A grader that sums ``weights[name] * functions[name]`` over the functions that apply.

    A completion to which no function applies, or to which one of the ``required`` does not, has the reward ``None``: it could not
    be graded, which is not 0. (An answer whose reference cannot be read must not be trained on its format alone.) Nor has one at which a
    function failed (:class:`~zero2r1.rewards.isolated.IsolatedReward`): what is left of a sum is no reward.

    What the functions log stands in ``Reward.details``, and no function overwrites another's: of two that log ``"why"``, the first
    one's is ``details["why"]``, the other's ``details["why/format"]`` with its own name. The ``required`` functions come first,
    then the order of ``functions``; ``details["gold"]`` is always the problem's reference.

    Several threads may grade at once. A function is called by one of them at a time, unless it is marked (:func:`concurrent`).

    Raises:
        ValueError: functions and weights name different things, or a weight is not finite.
    """
    if set(functions) != set(weights):
        raise ValueError(f"reward functions {sorted(functions)} and weights {sorted(weights)} must name the same rewards")
    if not all(math.isfinite(weight) for weight in weights.values()):
        raise ValueError(f"reward weights must be finite: {dict(weights)}")

    turns = {name: nullcontext() if getattr(function, "concurrent", False) else threading.Lock() for name, function in functions.items()}

    def grade(problems: Sequence[Problem], completions: Sequence[Completion]) -> list[Reward]:
        columns = _columns(problems, completions)
        parts = {}
        for name, function in functions.items():
            with turns[name]:
                parts[name] = _call(name, function, columns)
        details = _details(problems, {name: parts[name] for name in sorted(parts, key=lambda name: name not in required)})
        rewards = [_sum({name: part.values[i] for name, part in parts.items()}, weights, details[i]) for i in range(len(completions))]
        void = [any(r.components[name] is None for name in required) or _failed(parts, i) for i, r in enumerate(rewards)]
        return [replace(r, value=None) if gone else r for r, gone in zip(rewards, void, strict=True)]

    return grade


def _failed(parts: Mapping[str, Part], index: int) -> bool:
    """Whether a function in a process of its own raised, hung or died at a completion: it says so in a column ``why_<name>``."""
    return any(
        part.values[index] is None and said[index]
        for part in parts.values()
        for column, said in part.logged.items()
        if column.startswith("why_")
    )


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
    columns.setdefault("data_source", [problem.source for problem in problems])
    return columns


def _prompt(problem: Problem) -> str | list[dict[str, str]]:
    if isinstance(problem.prompt, str):
        return problem.prompt
    return [{"role": message.role, "content": message.content} for message in problem.prompt]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one function said about the completions of one call."""

    values: list[float | None]
    logged: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


def call_reward(where: str, function: RewardFn, columns: Mapping[str, list[Any]], *, wait: Callable[[Any], Any] | None = None) -> Part:
    """Call a function as TRL does and check what it returns and logs.

    Args:
        wait: turns what an ``async`` function returns into its result; an event loop of this call alone if left out.

    Raises:
        RewardError: what it returned or logged cannot be used. What the function raises passes through.
    """
    logged: dict[str, Sequence[Any]] = {}
    metrics: dict[str, float] = {}
    result = function(**columns, trainer_state=None, log_extra=logged.__setitem__, log_metric=metrics.__setitem__)
    if inspect.isawaitable(result):
        result = (wait or _awaited)(result)
    values = checked_values(where, result, columns["completions"])
    for column, said in logged.items():
        if len(said) != len(values):
            raise RewardError(f"{where} logged {len(said)} values of {column!r} for {len(values)} completions.")
    return Part(values=values, logged=logged, metrics=metrics)


def _call(name: str, function: RewardFn, columns: Mapping[str, list[Any]]) -> Part:
    where = f'reward "{name}" ({place_of(function)})'
    try:
        return call_reward(where, function, columns)
    except RewardError as error:
        raise error if error.saved else RewardError(str(error), columns) from None
    except Exception as error:  # a trust boundary: whatever a user's function raises must name that function
        first = columns["completions"][0] if columns["completions"] else None
        fault = f"{where} raised {type(error).__name__}: {error}. First completion of the call: {first!r:.300}"
        raise RewardError(fault, columns) from error


def _awaited(result: Any) -> Any:
    """The outcome of an ``async`` function, in a thread of its own: the caller may be inside an event loop already."""
    import asyncio  # costs more than the rest of this module, and few functions are async

    async def wait() -> Any:
        return await result

    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, wait()).result()


def checked_values(where: str, result: Any, completions: Sequence[Any]) -> list[float | None]:
    """One finite number or ``None`` per completion, as floats. Arrays and tensors of one dimension count as lists; true is 1.

    Raises:
        RewardError: anything else, with ``where``, the index and the completion.
    """
    if getattr(result, "ndim", None) == 1 and hasattr(result, "tolist"):
        result = result.tolist()
    if not isinstance(result, (list, tuple)):
        raise RewardError(f"{where} returned a {type(result).__name__}; return a list with one number per completion.")
    if len(result) != len(completions):
        raise RewardError(f"{where} returned {len(result)} values for {len(completions)} completions.")
    values: list[float | None] = []
    for index, value in enumerate(result):
        number = None if value is None else _number(value)
        if (value is not None and number is None) or (number is not None and not math.isfinite(number)):
            of = f"at index {index}, for {completions[index]!r:.300};"
            if number is None:
                raise RewardError(f"{where} returned a {type(value).__name__} {of} rewards are numbers.")
            raise RewardError(f'{where} returned {number} {of} use None for "does not apply".')
        values.append(number)
    return values


def _number(value: Any) -> float | None:
    """A number of Python or NumPy, or a tensor without dimensions; ``None`` for what is none of them, numbers in quotes too."""
    if isinstance(value, (str, bytes)) or getattr(value, "ndim", 0) != 0 or not hasattr(value, "__float__"):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer beyond the floats
        return math.inf
    except (TypeError, ValueError, RuntimeError):
        return None


def _details(problems: Sequence[Problem], parts: Mapping[str, Part]) -> list[dict[str, Any]]:
    """What is known of every completion beside its value; names as :func:`make_grader` says."""
    details: list[dict[str, Any]] = [{"gold": problem.answer} for problem in problems]
    taken = {"gold"}
    for name, part in parts.items():
        said: dict[str, Sequence[Any]] = {**part.logged, **{metric: [value] * len(problems) for metric, value in part.metrics.items()}}
        for column, values in said.items():
            key = f"{column}/{name}" if column in taken else column
            for detail, value in zip(details, values, strict=True):
                detail[key] = value
        taken |= set(said)
    return details


def _sum(parts: Mapping[str, float | None], weights: Mapping[str, float], details: Mapping[str, Any]) -> Reward:
    known = [weights[name] * value for name, value in parts.items() if value is not None]
    return Reward(value=sum(known) if known else None, components=dict(parts), details=details)


def place_of(function: RewardFn) -> str:
    """``file.py:41``, where a function was written."""
    place = getattr(function, "place", None)
    if isinstance(place, str):
        return place  # of a function that runs in another process
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename.rsplit('/', 1)[-1]}:{code.co_firstlineno}" if code else type(function).__name__

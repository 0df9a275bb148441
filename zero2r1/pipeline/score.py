"""Grading files of completions: the rewards of training as a tool of their own (``score`` and ``check data``)."""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zero2r1.rewards.accuracy import VERIFIERS, accuracy_reward
from zero2r1.rewards.choice import LETTERS
from zero2r1.rewards.combine import call_reward
from zero2r1.rewards.extraction import reference_answer
from zero2r1.rewards.format import format_reward
from zero2r1.rewards.language import language_reward
from zero2r1.rewards.length import length_reward, repetition_reward
from zero2r1.rewards.probes import printable
from zero2r1.tasks.files import DataError, flattened, read_problems, refuse_rows, rows_of
from zero2r1.types import RewardFn

COMPLETION_COLUMNS = ("completion", "response", "output", "generation")
GOLD_COLUMNS = ("answer", "gold", "ground_truth", "reward_model.ground_truth", "label", "target")
PROMPT_COLUMNS = ("prompt", "question", "problem", "input", "messages")
ROWS_A_CALL = 16
"""Few enough that progress moves, many enough that a call's own cost does not show."""
MOST_PROCESSES = 16
"""Of a function of the user's, whatever the machine has: each imports its file anew."""
NEEDS_GOLD = frozenset({"math", "choice", "judge"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRow:
    """One graded row, in the order of the file."""

    row: Mapping[str, Any]
    reward: float | None
    parts: Mapping[str, float | None]
    extracted: Any
    gold: Any
    why: str

    def line(self) -> str:
        """As JSON: the row's own columns, then what grading added."""
        added = {"reward": self.reward, "parts": dict(self.parts), "extracted": self.extracted, "gold": self.gold, "why": self.why}
        text = json.dumps({**self.row, **added}, ensure_ascii=False, default=str)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:  # half of a surrogate pair: legal in JSON as an escape, and in no file as itself
            text = json.dumps({**self.row, **added}, default=str)
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """A graded file: every row, and what they come to."""

    rows: tuple[ScoredRow, ...] = field(repr=False)
    parts: Mapping[str, float | None]
    """Mean of each reward over the rows it could grade."""
    ungraded: int

    @property
    def mean(self) -> float | None:
        values = [row.reward for row in self.rows if row.reward is not None]
        return math.fsum(values) / len(values) if values else None


def rule_rewards(*, format_mode: str = "strict", max_length: int = 4096) -> dict[str, RewardFn]:
    """The rewards that need nothing but the text, by the names ``score`` knows."""

    def only(name: str) -> RewardFn:
        reward = accuracy_reward({name: VERIFIERS[name]}, bare=True)
        return lambda completions, **columns: reward(completions=completions, **{**columns, "verifier": [name] * len(completions)})

    return {
        "math": only("math"),
        "choice": only("choice"),
        "format": format_reward(format_mode),
        "language": language_reward(),
        "length": length_reward(maximum=max_length, cache=max(1, max_length // 5)),
        "repetition": repetition_reward(),
    }


def named_rewards(
    names: Sequence[str],
    *,
    format_mode: str = "strict",
    max_length: int = 4096,
    judge_url: str | None = None,
    judge_model: str | None = None,
    judge_key_env: str | None = None,
    limit_s: float = 10.0,
    workers: int | None = None,
) -> dict[str, RewardFn]:
    """The functions ``score --reward`` names: those of :func:`rule_rewards`, ``judge``, or a function of the user's.

    Raises:
        ValueError: a name that is none of them, or a judge without an endpoint.
    """
    known = rule_rewards(format_mode=format_mode, max_length=max_length)
    found: dict[str, RewardFn] = {}
    for name in names:
        short = name.rsplit(":", 1)[-1]
        if short in found:
            raise ValueError(f"--reward {name}: another reward is called {short!r} already")
        if name in known:
            found[name] = known[name]
        elif name == "judge":
            found[name] = _judge(judge_url, judge_model, judge_key_env)
        elif ":" in name:
            from zero2r1.rewards.isolated import IsolatedReward

            found[short] = IsolatedReward(name, limit_s=limit_s, workers=min(MOST_PROCESSES, workers or os.cpu_count() or 1))
        else:
            if name == "accuracy":
                raise ValueError("--reward accuracy: in files it is math or choice, the verifier by its own name")
            near = difflib.get_close_matches(name, [*known, "judge"], n=1)
            hint = f"; did you mean {near[0]}" if near else ""
            raise ValueError(f"--reward {name} is not known{hint}. Choose {', '.join(known)}, judge, or my_rewards.py:function")
    return found


def _judge(url: str | None, model: str | None, key_env: str | None) -> RewardFn:
    if not url or not model:
        raise ValueError("--reward judge needs a model to ask, for example  --judge-url http://127.0.0.1:8000/v1 --judge-model my-model")
    from zero2r1.rewards.judge import judge_reward
    from zero2r1.rollout.openai_engine import OpenAIClient

    return judge_reward(OpenAIClient(base_url=url, model=model, api_key_env=key_env).complete)


def summary_lines(scores: Scores, out: Path | None, *, examples: int = 3) -> list[str]:
    """What a person wants to know of a graded file."""
    ungraded = f"  {scores.ungraded} could not be graded" if scores.ungraded else ""
    lines = [f"{len(scores.rows)} rows  mean reward {_shown(scores.mean)}{ungraded}"]
    lines += [f"  {name:<12} {_shown(mean)}" for name, mean in scores.parts.items()]
    for title, graded in (("without a grade", False), ("lowest", True)):
        rows = sorted((row for row in scores.rows if (row.reward is not None) == graded), key=lambda row: row.reward or 0.0)[:examples]
        lines += [f"{title}: {_shown(row.reward)}  extracted {row.extracted!r:.40}  gold {row.gold!r:.40}  {row.why:.100}" for row in rows]
    return [printable(line) for line in ([*lines, f"written: {out}"] if out else lines)]


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


def score_file(
    path: Path | str,
    functions: Mapping[str, RewardFn],
    *,
    out: Path | str | None = None,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scores:
    """Grade every row of a file; with ``out``, write them with ``reward, parts, extracted, gold, why`` added.

    The reward of a row is the plain sum of the functions that could grade it; a row whose reference cannot be read has none. A completion
    without any mark (``12``) is an answer by itself here, which it is not in training. ``out`` appears when the last row is graded, whole.

    Raises:
        DataError: no such file, no column of completions, or rows without one (the first are named by line).
        RewardError: a function returned something that is no reward.
    """
    path = Path(path)
    rows = _checked_rows(path, needs_gold=bool(NEEDS_GOLD & set(functions)))
    calls = [rows[k : k + ROWS_A_CALL] for k in range(0, len(rows), ROWS_A_CALL)]
    scored: list[ScoredRow] = []
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        for found in pool.map(lambda call: _score(call, functions), calls):
            scored += found
            on_progress(len(scored), len(rows))
    parts = {name: _mean([row.parts[name] for row in scored]) for name in functions}
    if out is not None:
        _write(Path(out), (row.line() for row in scored))
    return Scores(rows=tuple(scored), parts=parts, ungraded=sum(row.reward is None for row in scored))


def _checked_rows(path: Path, *, needs_gold: bool) -> list[dict[str, Any]]:
    rows, faults = [], []
    for place, row in rows_of(path):
        flat = flattened(row)
        completion = next((flat[name] for name in COMPLETION_COLUMNS if flat.get(name) is not None), None)
        gold = next((flat[name] for name in GOLD_COLUMNS if flat.get(name) is not None), None)
        if not (isinstance(completion, str) or _is_conversation(completion)):
            faults.append(f"{place}: no text in any of {', '.join(COMPLETION_COLUMNS)}; found {', '.join(row)}")
        elif needs_gold and gold is None:
            faults.append(f"{place}: no reference in any of {', '.join(GOLD_COLUMNS)}; found {', '.join(row)}")
        prompt = next((flat[name] for name in PROMPT_COLUMNS if flat.get(name) is not None), "")
        rows.append({"row": row, "completion": completion, "gold": gold, "prompt": prompt})
    refuse_rows(faults, len(rows), path, what="graded")
    if not rows:
        raise DataError(f"E101 data: {path} holds no rows")
    return rows


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(m, Mapping) and isinstance(m.get("content"), str) for m in value)


def _score(rows: Sequence[Mapping[str, Any]], functions: Mapping[str, RewardFn]) -> list[ScoredRow]:
    names = dict.fromkeys(name for row in rows for name in row["row"] if name not in ("prompts", "completions"))
    columns: dict[str, list[Any]] = {name: [row["row"].get(name) for row in rows] for name in names}
    columns |= {
        "prompts": [row["prompt"] for row in rows],
        "completions": [row["completion"] for row in rows],
        "answer": [row["gold"] for row in rows],
        "finish_reason": [str(row["row"].get("finish_reason") or "stop") for row in rows],
    }
    if not all(columns.get("completion_ids", [])):
        columns.pop("completion_ids", None)
    graded = {name: call_reward(f'reward "{name}"', function, columns) for name, function in functions.items()}
    found = []
    for i, row in enumerate(rows):
        parts = {name: part.values[i] for name, part in graded.items()}
        known = [value for value in parts.values() if value is not None]
        ungradable = any(parts[name] is None for name in NEEDS_GOLD & set(parts))
        why = [str(said[i]) for part in graded.values() for name, said in part.logged.items() if "why" in name or "problems" in name]
        extracted = next((part.logged["extracted"][i] for part in graded.values() if "extracted" in part.logged), None)
        found.append(
            ScoredRow(
                row=row["row"],
                reward=math.fsum(known) if known and not ungradable else None,
                parts=parts,
                extracted=extracted,
                gold=row["gold"],
                why="; ".join(dict.fromkeys(text for text in why if text)),
            )
        )
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _write(path: Path, lines: Iterator[str]) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)
    os.replace(part, path)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReport:
    """What ``check data`` found: references that cannot be graded against, or do not equal themselves."""

    rows: int
    unreadable: tuple[tuple[str, str, str], ...]
    """(place or id, reference, why), of all rows."""


def check_references(path: Path | str) -> DataReport:
    """Grade every reference of a file against itself, with the verifier its row names.

    Raises:
        DataError: the file cannot be read.
    """
    problems = read_problems(path, split="check")
    faults = []
    for problem in problems:
        verify = VERIFIERS.get(problem.verifier)
        gold = problem.answer or ""
        if verify is None:
            faults.append((problem.id, gold, f"no verifier is called {problem.verifier!r}"))
            continue
        columns = {**problem.extra, "answer": gold, "language": problem.language, "prompts": problem.question}
        verdict = verify(_self_answer(gold, problem.verifier), columns)
        if verdict.correct is not True:
            faults.append((problem.id, gold, verdict.why if verdict.correct is None else f"it does not equal itself: {verdict.why}"))
    return DataReport(rows=len(problems), unreadable=tuple(faults))


def _self_answer(gold: str, verifier: str) -> str:
    """What a response would have to say to give exactly this reference."""
    if verifier == "choice" and gold.strip().isdecimal():
        return LETTERS[int(gold) % len(LETTERS)]
    return reference_answer(gold)

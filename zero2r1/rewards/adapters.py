"""Reward functions written for TRL, verl or OpenRLHF, as they are: the parameters' names tell whose signature it is.

A function receives what it names, and everything where it has ``**kwargs``. A reference it asks for by another name
(``ground_truth``, ``solution``, ``label`` ...) is the column of that name or else the problem's answer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from zero2r1.rewards.combine import RewardError, place_of
from zero2r1.rewards.completions import text_of

Style = Literal["TRL", "verl", "OpenRLHF"]

SIGNATURES: Mapping[Style, str] = {
    "TRL": "def reward(completions, prompts=..., any_column=..., **kwargs) -> list[float | None]",
    "verl": "def compute_score(data_source, solution_str, ground_truth, extra_info=None) -> float | dict",
    "OpenRLHF": "def reward_func(queries, prompts, labels) -> tensor | list | dict",
}
_TRL_NAMES = frozenset({"completions", "prompts", "completion_ids", "completions_ids"})
_GOLD_NAMES = ("ground_truth", "solution", "label", "labels", "target", "gold", "final_answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """How a function wants to be called."""

    style: Style
    names: frozenset[str]
    required: tuple[str, ...]
    takes_all: bool
    """It has ``**kwargs``, as TRL demands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptedReward:
    """A function of any of the three signatures, to be called with TRL's keywords."""

    function: Callable[..., Any]
    signature: Signature

    def __call__(self, **columns: Any) -> Any:
        calls = [self._chosen(call, columns) for call in _CALLS[self.signature.style](columns, self.signature)]
        if inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(getattr(self.function, "__call__", None)):  # noqa: B004
            return self._awaited(calls, columns)
        return _VALUES[self.signature.style](self.place, [self.function(**call) for call in calls], columns)

    async def _awaited(self, calls: Sequence[Mapping[str, Any]], columns: Mapping[str, Any]) -> Any:
        import asyncio  # few functions are async

        results = await asyncio.gather(*(self.function(**call) for call in calls))
        return _VALUES[self.signature.style](self.place, results, columns)

    def _chosen(self, call: Mapping[str, Any], columns: Mapping[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in call.items() if self.signature.takes_all or name in self.signature.names}
        missing = [name for name in self.signature.required if name not in given]
        if missing:
            known = sorted(name for name, values in columns.items() if isinstance(values, list))
            raise RewardError(f"{self.place} asks for {', '.join(missing)}, which the data do not have; they have {', '.join(known)}.")
        return given

    @property
    def name(self) -> str:
        return str(getattr(self.function, "__name__", type(self.function).__name__))

    @property
    def place(self) -> str:
        return place_of(self.function)


def adapt(function: Callable[..., Any]) -> AdaptedReward:
    """A reward function with TRL's, verl's or OpenRLHF's signature as one that is called with TRL's keywords.

    * TRL: gets every column it names, or all of them with ``**kwargs``.
    * verl: called once per completion; of a dictionary ``score`` is the reward, and the other entries are logged.
    * OpenRLHF: ``queries`` are prompt and response as one text; of a dictionary ``rewards`` (or else ``scores``) are the reward.

    Raises:
        ValueError: the parameters fit none of the three.
    """
    return function if isinstance(function, AdaptedReward) else AdaptedReward(function=function, signature=signature_of(function))


def signature_of(function: Callable[..., Any]) -> Signature:
    """Whose signature a function has.

    Raises:
        ValueError: nobody's; the message lists the three.
    """
    known = "\n".join(f"  {style + ':':<10}{text}" for style, text in SIGNATURES.items())
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place_of(function)} does not show its parameters: {error}. A reward function is one of\n{known}") from None
    by_name = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = frozenset(p.name for p in by_name)
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    nameless = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
    style: Style | None = "OpenRLHF" if "queries" in names else "verl" if "solution_str" in names else None
    if style is None and (takes_all or names & _TRL_NAMES):
        style = "TRL"
    if style is None or nameless:
        shown = f"({', '.join(str(p) for p in parameters)})"
        raise ValueError(f"{place_of(function)} has the parameters {shown}. A reward function is one of\n{known}")
    return Signature(style=style, names=names, required=tuple(p.name for p in by_name if p.default is p.empty), takes_all=takes_all)


def _trl_calls(columns: Mapping[str, Any], signature: Signature) -> list[dict[str, Any]]:
    call = dict(columns)
    gold = _gold(columns)
    for name in _GOLD_NAMES:
        if name in signature.names and gold is not None:
            call.setdefault(name, gold)
    if "completions_ids" in signature.names and "completion_ids" in columns:
        call.setdefault("completions_ids", columns["completion_ids"])  # so TRL's documentation long spelt it
    return [call]


def _verl_calls(columns: Mapping[str, Any], signature: Signature) -> list[dict[str, Any]]:
    completions = columns["completions"]
    wanted = {
        "data_source": columns.get("data_source", ["unknown"] * len(completions)),
        "solution_str": [text_of(completion) for completion in completions],
        "ground_truth": _gold(columns),
        "extra_info": columns.get("extra_info", [{} for _ in completions]),
    }
    return [{name: values[i] for name, values in wanted.items() if values is not None} for i in range(len(completions))]


def _openrlhf_calls(columns: Mapping[str, Any], signature: Signature) -> list[dict[str, Any]]:
    prompts = [_prompt_text(prompt) for prompt in columns.get("prompts", [""] * len(columns["completions"]))]
    responses = [text_of(completion) for completion in columns["completions"]]
    call: dict[str, Any] = {"queries": [p + r for p, r in zip(prompts, responses, strict=True)], "prompts": prompts}
    labels = columns.get("labels", columns.get("label", _gold(columns)))
    return [call if labels is None else {**call, "labels": labels}]


def _prompt_text(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else "".join(f"{message['content']}\n" for message in prompt)


def _gold(columns: Mapping[str, Any]) -> list[Any] | None:
    """The references: a column ``ground_truth``, verl's ``reward_model.ground_truth``, or the problems' answers."""
    if "ground_truth" in columns:
        return list(columns["ground_truth"])
    if "reward_model" in columns:
        return [row.get("ground_truth") if isinstance(row, Mapping) else None for row in columns["reward_model"]]
    return list(columns["answer"]) if "answer" in columns else None


def _trl_values(place: str, results: Sequence[Any], columns: Mapping[str, Any]) -> Any:
    return results[0]


def _verl_values(place: str, results: Sequence[Any], columns: Mapping[str, Any]) -> list[Any]:
    rows: list[Mapping[str, Any]] = [result if isinstance(result, Mapping) else {"score": result} for result in results]
    for index, row in enumerate(rows):
        if "score" not in row:
            raise RewardError(f'{place} returned a dictionary without "score" at index {index}: it has {sorted(map(str, row))}.')
    for name in dict.fromkeys(name for row in rows for name in row if name != "score"):
        columns.get("log_extra", _unlogged)(str(name), [row.get(name) for row in rows])
    return [row["score"] for row in rows]


def _openrlhf_values(place: str, results: Sequence[Any], columns: Mapping[str, Any]) -> Any:
    (result,) = results
    if not isinstance(result, Mapping):
        return result
    rewards = result.get("rewards", result.get("scores"))
    if rewards is None:
        raise RewardError(f'{place} returned a dictionary without "rewards": it has {sorted(map(str, result))}.')
    extra = {**({"scores": result["scores"]} if "scores" in result else {}), **(result.get("extra_logs") or {})}
    for name, values in extra.items():
        plain = values.tolist() if hasattr(values, "tolist") else values
        if isinstance(plain, (int, float)):
            columns.get("log_metric", _unlogged)(str(name), float(plain))
        else:
            columns.get("log_extra", _unlogged)(str(name), list(plain))
    return rewards


def _unlogged(name: str, value: Any) -> None:
    """For callers that give no ``log_extra``, as older versions of TRL."""


_CALLS: Mapping[Style, Callable[[Mapping[str, Any], Signature], list[dict[str, Any]]]] = {
    "TRL": _trl_calls,
    "verl": _verl_calls,
    "OpenRLHF": _openrlhf_calls,
}
_VALUES: Mapping[Style, Callable[[str, Sequence[Any], Mapping[str, Any]], Any]] = {
    "TRL": _trl_values,
    "verl": _verl_values,
    "OpenRLHF": _openrlhf_values,
}

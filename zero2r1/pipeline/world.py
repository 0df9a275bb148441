"""What a training stage needs to know about where its problems come from, in one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from zero2r1.eval.runner import EvalResult, evaluate
from zero2r1.pipeline.config import EvaluationSettings, RewardSettings
from zero2r1.rewards.accuracy import accuracy_reward
from zero2r1.rewards.combine import make_grader
from zero2r1.rewards.completions import text_of
from zero2r1.rewards.config import ReadabilitySettings
from zero2r1.rewards.extraction import final_answer
from zero2r1.rewards.format import MODES, format_reward
from zero2r1.rewards.isolated import IsolatedReward
from zero2r1.rewards.language import language_reward, question_language, script_share
from zero2r1.rewards.length import length_reward, repetition_reward
from zero2r1.rewards.readability import unreadable_response
from zero2r1.rewards.verdict import Verifier
from zero2r1.rollout.engine import Engine, SamplingParams
from zero2r1.template import parse_response
from zero2r1.types import Completion, Grader, Problem, Reward, RewardFn

PAPER_REFLECTION_WORDS = frozenset({"wait", "mistake", "however", "but", "retry", "error", "verify", "wrong", "evaluate", "check"})
"""The words whose frequency the paper follows (supplement C.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Problems, how they are worded for the model, and how answers are judged and described."""

    name: str
    train: tuple[Problem, ...]
    held_out: tuple[Problem, ...]
    template: str
    """How a question becomes a prompt: a name of ``TEMPLATES``, ``chat``, or a text with one ``{question}``."""
    verifiers: Mapping[str, Verifier]
    format_mode: str = "strict"
    """The layout of a good answer: a key of :data:`zero2r1.rewards.format.MODES`."""
    accuracy: RewardFn | None = None
    """Grades answers instead of the verifiers the problems name: 1 for right."""
    reflection_words: frozenset[str] = PAPER_REFLECTION_WORDS
    self_check_words: frozenset[str] = frozenset({"wait"})
    readability: ReadabilitySettings = field(default_factory=ReadabilitySettings)
    think_open: bool = False
    """The model's prompt ends with ``<think>``, so its responses start inside the thinking; the stage finds out."""
    language_share: Callable[[str, str], float | None] = script_share
    """(text, language) -> share of the language's words; ``None`` for a text without words."""

    def rewards(self) -> dict[str, RewardFn]:
        """The rule rewards of this world, by name."""
        functions: dict[str, RewardFn] = {
            "accuracy": self.accuracy or accuracy_reward(self.verifiers, think_open=self.think_open or None),
            "format": format_reward(self.format_mode, think_open=self.think_open or None),
            "repetition": repetition_reward(),
        }
        if self.language_share is script_share:
            return {**functions, "language": language_reward(think_open=self.think_open or None)}

        def language(completions: list[Any], **columns: Any) -> list[float | None]:
            thoughts = [parse_response(text_of(completion), think_open=self.think_open).thinking or "" for completion in completions]
            return [self.language_share(t, wanted) or 0.0 for t, wanted in zip(thoughts, columns["language"], strict=True)]

        return {**functions, "language": language}

    def grader(self, settings: RewardSettings, *, cap: int) -> Grader:
        """The weighted sum the settings ask for, of outputs that end at ``cap`` tokens at the latest.

        Raises:
            ValueError: a reward this world does not have.
        """
        if "overlong" in settings.weights and settings.overlong_cache > cap:
            raise ValueError(
                f"reward.overlong_cache is {settings.overlong_cache} tokens and the cap of the outputs is {cap}: every output would be "
                f"punished for its length. Set reward.overlong_cache to {max(1, cap // 5)}, or raise rollout.max_new_tokens"
            )
        known: dict[str, RewardFn] = {**self.rewards(), **{name: IsolatedReward(name) for name in settings.weights if ":" in name}}
        if "overlong" in settings.weights:
            known["overlong"] = length_reward(maximum=cap, cache=settings.overlong_cache)
        unknown = set(settings.weights) - set(known)
        if unknown:
            raise ValueError(f"reward.weights names {sorted(unknown)}; the {self.name} world has {sorted({*known, 'overlong'})}")
        chosen = {name: known[name] for name in settings.weights}
        return make_grader(chosen, settings.weights, required=[name for name in ("accuracy",) if name in chosen])

    def accuracy_grader(self) -> Grader:
        """Accuracy alone: what evaluation counts as right, whatever training rewards."""
        graded = make_grader({"accuracy": self.rewards()["accuracy"]}, {"accuracy": 1.0})
        if self.accuracy is None:
            return graded

        def with_votes(problems: Sequence[Problem], completions: Sequence[Completion]) -> list[Reward]:
            """A function of the user's need not say what it extracted, but a majority vote needs something to count."""
            answers = [final_answer(completion.text, think_open=self.think_open) for completion in completions]
            found = zip(graded(problems, completions), answers, strict=True)
            return [replace(reward, details={"extracted": answer, **reward.details}) for reward, answer in found]

        return with_votes

    def describe(self, problem: Problem, completion: Completion) -> dict[str, float]:
        """Traits of one output that are watched, not rewarded."""
        words = completion.text.lower().replace(",", " ").replace(".", " ").split()
        ended = completion.finish_reason == "stop"
        traits = {
            "format_ok": float(ended and MODES[self.format_mode](completion.text, think_open=self.think_open) is None),
            "self_check": float(any(word in self.self_check_words for word in words)),
            "reflection_words": float(sum(word in self.reflection_words for word in words)),
        }
        share = self.language_share(completion.text, problem.language or question_language(problem.question) or "en")
        traits["language_share"] = 1.0 if share is None else share
        traits["one_language"] = float(share is None or share == 1.0)
        return traits

    def describe_answer(self, problem: Problem, completion: Completion) -> dict[str, float]:
        """As :meth:`describe`, and whether the answer is readable: for measurement, where half a millisecond an answer is no matter."""
        language = problem.language or question_language(problem.question) or "en"
        broken = unreadable_response(
            completion.text, language, self.readability, think_open=self.think_open, language_share=self.language_share
        )
        return {**self.describe(problem, completion), "readable": float(completion.finish_reason == "stop" and not broken)}


def measure(
    engine: Engine,
    world: World,
    *,
    name: str,
    encode: Callable[[Problem], tuple[tuple[int, ...], tuple[int, ...]]],
    settings: EvaluationSettings,
    max_new_tokens: int,
    stop_token_ids: tuple[int, ...],
    problems: int | None = None,
    grader: Grader | None = None,
) -> EvalResult:
    """Evaluate a checkpoint on the world's held-out problems (the first ``problems`` of them)."""
    chosen = world.held_out[: problems if problems is not None else settings.problems]
    params = SamplingParams(
        max_new_tokens=max_new_tokens,
        stop_token_ids=stop_token_ids,
        temperature=settings.temperature,
        top_p=settings.top_p,
    )
    return evaluate(
        engine,
        chosen,
        name=name,
        encode=encode,
        grader=grader or world.accuracy_grader(),
        describe=world.describe_answer,
        params=params,
        samples=settings.samples,
        seed=settings.seed,
    )

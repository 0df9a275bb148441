"""A saved reward model as a reward function (paper section 2.3.4): helpfulness from the summary, harmlessness from the whole response."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from zero2r1.models.reward_head import load_reward_model, read_card
from zero2r1.reward_models.data import Response, response_of
from zero2r1.reward_models.encoding import RewardEncoder, fit
from zero2r1.reward_models.scoring import score_examples
from zero2r1.rewards.completions import finish_reasons, starts_inside_thinking, text_of
from zero2r1.training.config import ComputeSettings
from zero2r1.types import Message

Log = Callable[[str, list[Any]], None]


class RewardModelReward:
    """A reward function in TRL's signature.

    A preference model gives sigmoid((score - mean) / std), mean and deviation being those of its held-out responses: 0.5 for a response
    like them. A safety model gives sigmoid(score) = P(safe). A response without a summary, cut at the cap or not, earns 0. Logs
    ``<kind>_score`` (raw; ``None`` where nothing was scored) and ``<kind>_why``.

    Args:
        folder: a saved reward model.
        think_open: whether responses start inside the thinking; ``None``: where the prompt ends with ``<think>``.
        max_length: longer prompts lose their beginning; the paper scores without a limit.

    Raises:
        ValueError: the folder holds no reward model.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        think_open: bool | None = None,
        max_length: int | None = None,
        compute: ComputeSettings | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.card = read_card(folder)
        self.__name__ = f"{self.card.kind}_reward"
        device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model, tokenizer = load_reward_model(folder, device=device)
        self._encoder = RewardEncoder.of(tokenizer, self.card.view)
        self._think_open, self._max_length, self._compute = think_open, max_length, compute or ComputeSettings()

    def __call__(self, prompts: list[Any], completions: list[Any], log_extra: Log = lambda *_: None, **columns: Any) -> list[float | None]:
        """One value in [0, 1] per completion."""
        responses: list[Response | None] = []
        for prompt, completion in zip(prompts, completions, strict=True):
            inside = starts_inside_thinking({"prompts": prompt}) if self._think_open is None else self._think_open
            response = response_of(text_of(completion), think_open=inside)
            responses.append(response if response is not None and response.summary else None)
        scored = [i for i, response in enumerate(responses) if response is not None]
        scores = dict(zip(scored, self._scores([(prompts[i], responses[i]) for i in scored]), strict=True))
        ended = finish_reasons(columns, len(completions))
        log_extra(f"{self.card.kind}_score", [scores.get(i) for i in range(len(completions))])
        log_extra(f"{self.card.kind}_why", [self._why(scores.get(i), reason) for i, reason in enumerate(ended)])
        return [self.value(scores[i]) if i in scores else 0.0 for i in range(len(completions))]

    def value(self, score: float) -> float:
        """A raw score on the scale of the reward."""
        if self.card.kind == "preference":
            score = (score - self.card.mean) / self.card.std
        return (1 + math.tanh(score / 2)) / 2  # the sigmoid, without an overflow

    def _scores(self, cases: list[tuple[Any, Response | None]]) -> list[float]:
        examples = [self._encoder.example(asked_of(prompt), (response,)) for prompt, response in cases if response is not None]
        if self._max_length is not None:
            examples = list(fit(examples, self._max_length).examples)
        return [score for (score,) in score_examples(self._model, examples, self._compute)]

    def _why(self, score: float | None, reason: str) -> str:
        if score is None:
            return "cut off at the length limit before a summary" if reason == "length" else "there is no summary"
        return f"score {score:.3f}, read: {'the summary' if self.card.view == 'summary' else 'thinking and summary'}"


def asked_of(prompt: Any) -> tuple[Message, ...]:
    """A prompt as TRL hands it over, as the turns before the response; a thinking that it opens belongs to the response."""
    if isinstance(prompt, str):
        return (Message(role="user", content=prompt.rstrip().removesuffix("<think>") if prompt.rstrip().endswith("<think>") else prompt),)
    turns = [Message(role=str(m["role"]), content=str(m["content"])) for m in prompt if isinstance(m, Mapping)]
    return tuple(turns[:-1] if turns and turns[-1].role == "assistant" else turns)

"""What a reward model reads: the view of a response, its token ids, and the fit into a length.

Helpfulness is judged by the summary, so that the thinking is left free; harmlessness by thinking and summary (section 2.3.4).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from zero2r1.models.tokenizer import TextEncoder
from zero2r1.reward_models.config import View
from zero2r1.reward_models.data import Label, Preference, Response
from zero2r1.template import write_thinking
from zero2r1.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SPEAKERS = {"user": "User", "assistant": "Assistant", "system": "System"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardExample:
    """A prompt and the responses to it that are scored together: chosen and rejected, or one with its label."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[tuple[int, ...], ...]
    safe: bool | None = None

    def __post_init__(self) -> None:
        if not self.prompt_ids or not self.response_ids or not all(self.response_ids):
            raise ValueError("a reward example needs a prompt token, a response, and a token in every response")

    @property
    def tokens(self) -> int:
        """Packed tokens: the prompt counts once."""
        return len(self.prompt_ids) + sum(map(len, self.response_ids))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Examples cut to a length, and what that cost."""

    examples: tuple[RewardExample, ...]
    cut: int
    """Examples whose prompt lost its beginning."""
    cut_responses: int
    """Examples with a response that fills the length alone and lost its beginning too."""


def viewed(messages: Sequence[Message], response: Response, view: View) -> list[dict[str, str]]:
    """The dialogue that is encoded. Under ``summary`` no thinking is in it, of this response or of earlier ones."""
    asked = [{"role": message.role, "content": message.content} for message in messages]
    thought = {"reasoning_content": response.thinking} if view == "response" and response.thinking else {}
    return [*asked, {"role": "assistant", "content": response.summary, **thought}]


class RewardEncoder:
    """Encodes dialogues under the chat template, or as ``User: ... Assistant: ...`` where the tokenizer has none.

    Args:
        chat: whether the tokenizer has a chat template.
    """

    def __init__(self, encoder: TextEncoder, *, chat: bool, view: View) -> None:
        self._encoder, self._chat, self._view = encoder, chat, view

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast, view: View) -> RewardEncoder:
        """For a tokenizer as it is."""
        return cls(TextEncoder(tokenizer), chat=bool(tokenizer.chat_template), view=view)

    def example(self, messages: Sequence[Message], responses: Sequence[Response], *, safe: bool | None = None) -> RewardExample:
        """Ids of a prompt and of what is seen of the responses to it. Every response ends with the token that ends a turn."""
        parts = [self._ids(viewed(messages, response, self._view)) for response in responses]
        return RewardExample(prompt_ids=parts[0][0], response_ids=tuple(response for _, response in parts), safe=safe)

    def preference(self, preference: Preference) -> RewardExample:
        """The chosen response first."""
        return self.example(preference.messages, (preference.chosen, preference.rejected))

    def label(self, label: Label) -> RewardExample:
        """The example of a label."""
        return self.example(label.messages, (label.response,), safe=label.safe)

    def _ids(self, dialogue: Sequence[Mapping[str, str]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if self._chat:
            encoded = self._encoder.encode_dialogue(dialogue)
            return encoded.prompt_ids, encoded.response_ids
        *asked, answer = dialogue
        turns = [(f"{_SPEAKERS.get(message['role'], 'User')}: ", message["content"], "\n\n") for message in asked]
        prompt = [*self._encoder.encode_plain(*turns[0]), *(i for turn in turns[1:] for i in self._encoder.encode(*turn))]
        prompt += self._encoder.encode("Assistant: ", "", "")
        thinking, content = answer.get("reasoning_content"), answer["content"]
        written = content if thinking is None else write_thinking(thinking, content)
        return tuple(prompt), (*self._encoder.encode_written(written), self._encoder.end_token)


def fit(examples: Sequence[RewardExample], max_length: int) -> Fitted:
    """Shorten examples from the left until prompt and longest response have at most ``max_length`` tokens; ends always stay.

    Responses to one prompt keep the same prompt. At least one token of it stays.
    """
    fitted = [_fit_one(example, max_length) for example in examples]
    pairs = list(zip(fitted, examples, strict=True))
    return Fitted(
        examples=tuple(fitted),
        cut=sum(len(new.prompt_ids) < len(old.prompt_ids) for new, old in pairs),
        cut_responses=sum(new.response_ids != old.response_ids for new, old in pairs),
    )


def _fit_one(example: RewardExample, max_length: int) -> RewardExample:
    responses = tuple(ids[-(max_length - 1) :] for ids in example.response_ids)
    room = max_length - max(map(len, responses))
    return replace(example, prompt_ids=example.prompt_ids[-room:], response_ids=responses)


def ends_of(examples: Sequence[RewardExample]) -> frozenset[int]:
    """Every id that ends a response."""
    return frozenset(ids[-1] for example in examples for ids in example.response_ids)


def digest_of_examples(examples: Sequence[RewardExample]) -> str:
    """SHA-256 of the examples as the model reads them, in their order."""
    whole = hashlib.sha256()
    for example in examples:
        label = -1 if example.safe is None else int(example.safe)
        for ids in ((label, len(example.response_ids)), example.prompt_ids, *example.response_ids):
            whole.update(np.array([len(ids), *ids], dtype="<i8").tobytes())
    return whole.hexdigest()

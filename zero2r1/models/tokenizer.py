"""A word-level tokenizer for closed worlds, and encoding in which user text can never become a special token."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from zero2r1.template import RESPONSE_TAGS, write_thinking

UNKNOWN, PAD, EOS, TURN_START, TURN_END = "<unk>", "<pad>", "<eos>", "<|im_start|>", "<|im_end|>"


def word_tokenizer(words: Sequence[str], tags: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token per word, split at white space.

    Args:
        words: the vocabulary, in the order of its ids.
        tags: single tokens that decoding keeps and that only added-token matching can produce: the words of a user never
            contain them, so a question cannot smuggle one in (see :class:`TextEncoder`).
    """
    clash = set(words) & {UNKNOWN, PAD, EOS, TURN_START, TURN_END, *tags}
    if clash:
        raise ValueError(f"these words are reserved for special tokens: {sorted(clash)}")
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate([UNKNOWN, *words])}, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token=UNKNOWN, pad_token=PAD, eos_token=EOS, clean_up_tokenization_spaces=False
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [TURN_START, TURN_END]})
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False, single_word=False) for tag in tags])
    tokenizer.chat_template = files("zero2r1.models").joinpath("chat_template.jinja").read_text(encoding="utf-8")
    return tokenizer


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a Hugging Face folder or model name."""
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder)
    return tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedDialogue:
    """A dialogue as supervised fine-tuning sees it; the response ends with the token that ends a turn."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]


class TextEncoder:
    """Turns template text and user text into ids: special tokens exist in the template only.

    User text is encoded by a copy of the tokenizer that knows no added token, so ``</think>`` typed by a user becomes
    ordinary pieces of text. What the model is to write may hold the tags it writes (``</think>``, ``<answer>``), but no control
    token, such as the end of a turn. The parts are encoded one by one and joined.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._template = tokenizer
        plain = json.loads(tokenizer.backend_tokenizer.to_str())
        plain["added_tokens"] = []
        plain["post_processor"] = None  # it may add special tokens of its own
        self._plain = Tokenizer.from_str(json.dumps(plain))
        self._prefix = _prepended(tokenizer)
        added = tokenizer.added_tokens_decoder
        self._special = set(tokenizer.all_special_ids) | set(added)
        self._tags = {token.content: i for i, token in added.items() if token.content in RESPONSE_TAGS}

    def encode(self, before: str, user: str, after: str) -> tuple[int, ...]:
        """Ids of a rendered prompt given as template text, user text, template text.

        Raises:
            ValueError: the tokenizer maps user text to a special token although it was told not to.
        """
        ids = self._plain_ids(user)
        return (*self._template_ids(before), *ids, *self._template_ids(after))

    def encode_plain(self, before: str, user: str, after: str) -> tuple[int, ...]:
        """As :meth:`encode`, behind what the tokenizer itself puts before every text (a BOS token, or nothing)."""
        return (*self._prefix, *self.encode(before, user, after))

    def encode_chat(self, messages: Sequence[Mapping[str, str]], **options: object) -> tuple[int, ...]:
        """Ids of a dialogue by the tokenizer's own chat template, up to where the assistant begins.

        The template is rendered with a placeholder for each message's content, so that what it adds and what users wrote
        can be told apart. ``options`` go to the template (``enable_thinking=False``).

        Raises:
            ValueError: the tokenizer has no chat template, or its template changes or drops a message.
        """
        holes = [_hole(i) for i in range(len(messages))]
        text = self._rendered(messages, add_generation_prompt=True, **options)
        ids: list[int] = []
        for message, hole in zip(messages, holes, strict=True):
            if text.count(hole) != 1:
                raise ValueError(f"the chat template does not keep the content of a {message['role']} message as it is")
            before, text = text.split(hole)
            ids += self.encode(before, message["content"], "")
        return (*ids, *self._template_ids(text))

    def encode_written(self, text: str) -> tuple[int, ...]:
        """Ids of a text the model is to write itself: tags in it are tags, control tokens are ordinary text."""
        if not self._tags:
            return tuple(self._plain_ids(text))
        pieces = re.split("(" + "|".join(re.escape(tag) for tag in sorted(self._tags, key=len, reverse=True)) + ")", text)
        return tuple(i for piece in pieces if piece for i in ([self._tags[piece]] if piece in self._tags else self._plain_ids(piece)))

    def encode_dialogue(self, messages: Sequence[Mapping[str, str]]) -> EncodedDialogue:
        """A dialogue whose last message is the assistant's, by the tokenizer's chat template; ``reasoning_content`` is its thinking.

        The prompt is what :meth:`encode_chat` gives for the messages before. Where the template has no place for a thinking, it is
        written in ``<think>`` tags before the content.

        Raises:
            ValueError: as :meth:`encode_chat`, or a turn begins otherwise in a dialogue than where the model is asked to go on.
        """
        *asked, answer = messages
        prompt_ids = self.encode_chat(asked)
        opened, rendered = self._rendered(asked, add_generation_prompt=True), self._rendered(messages, add_generation_prompt=False)
        if not rendered.startswith(opened):
            raise ValueError(
                "the chat template opens an answer in one way when it asks for it and in another when it shows it, so a model trained on "
                f"shown answers would not know how to go on. It asks with {opened[-60:]!r} and shows {rendered[: len(opened)][-60:]!r}"
            )
        thinking, content = answer.get("reasoning_content"), answer["content"]
        shown, hole = rendered[len(opened) :], _hole(len(asked))
        if thinking is not None and shown.count(_THOUGHT) != 1:
            thinking, content = None, write_thinking(thinking, content)
        response: list[int] = []
        for text, mark in ((thinking, _THOUGHT), (content, hole)):
            if text is not None:
                before, _, shown = shown.partition(mark)
                response += [*self._template_ids(before), *self.encode_written(text)]
        closing = self._template_ids(shown)
        end = next((i for i, token in enumerate(closing) if token in self._special), None)
        response += closing[: end + 1] if end is not None else [self.end_token]
        return EncodedDialogue(prompt_ids=prompt_ids, response_ids=tuple(response))

    @property
    def end_token(self) -> int:
        """The tokenizer's end token.

        Raises:
            ValueError: it has none.
        """
        end = self._template.eos_token_id
        if not isinstance(end, int):
            raise ValueError("E202 tokenizer: this tokenizer names no end token, so a model would never learn to stop. Set its eos_token")
        return end

    def _rendered(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool, **options: object) -> str:
        """The chat template with a placeholder for everything that somebody wrote."""
        if not self._template.chat_template:
            raise ValueError("this tokenizer has no chat template; for R1-Zero on a base model use --data.template=zero, as the paper does")
        shown = [{**message, "content": _hole(i)} for i, message in enumerate(messages)]
        shown = [{**message, "reasoning_content": _THOUGHT} if message.get("reasoning_content") else message for message in shown]
        text: str = self._template.apply_chat_template(shown, tokenize=False, add_generation_prompt=add_generation_prompt, **options)
        return text

    def _plain_ids(self, text: str) -> list[int]:
        """Ids of a text in which nothing is special."""
        ids = list(self._plain.encode(text, add_special_tokens=False).ids)
        smuggled = [i for i in ids if i in self._special and i != self._template.unk_token_id]
        if smuggled:
            raise ValueError(f"text would become special tokens {smuggled}: {text[:200]!r}")
        return ids

    def _template_ids(self, text: str) -> list[int]:
        return list(self._template.encode(text, add_special_tokens=False)) if text else []


_THOUGHT = "\x02thought\x03"


def _hole(index: int) -> str:
    return f"\x02content{index}\x03"


def _prepended(tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    """The ids a tokenizer puts before any text; chat templates write theirs out, plain text gets them here."""
    bare, full = (list(tokenizer("a", add_special_tokens=special)["input_ids"]) for special in (False, True))
    start = next((i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare), 0)
    return tuple(full[:start])

"""A word-level tokenizer for closed worlds, and encoding in which user text can never become a special token."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

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


class TextEncoder:
    """Turns template text and user text into ids: special tokens exist in the template only.

    User text is encoded by a copy of the tokenizer that knows no added token, so ``</think>`` typed by a user becomes
    ordinary pieces of text. The parts are encoded one by one and joined.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._template = tokenizer
        plain = json.loads(tokenizer.backend_tokenizer.to_str())
        plain["added_tokens"] = []
        plain["post_processor"] = None  # it may add special tokens of its own
        self._plain = Tokenizer.from_str(json.dumps(plain))
        self._prefix = _prepended(tokenizer)
        self._special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)

    def encode(self, before: str, user: str, after: str) -> tuple[int, ...]:
        """Ids of a rendered prompt given as template text, user text, template text.

        Raises:
            ValueError: the tokenizer maps user text to a special token although it was told not to.
        """
        ids = self._plain.encode(user, add_special_tokens=False).ids
        smuggled = [i for i in ids if i in self._special and i != self._template.unk_token_id]
        if smuggled:
            raise ValueError(f"user text would become special tokens {smuggled}: {user[:200]!r}")
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
        if not self._template.chat_template:
            raise ValueError("this tokenizer has no chat template; for R1-Zero on a base model use --data.template=zero, as the paper does")
        holes = [f"\x02content{i}\x03" for i in range(len(messages))]
        shown = [{**message, "content": hole} for message, hole in zip(messages, holes, strict=True)]
        text = self._template.apply_chat_template(shown, tokenize=False, add_generation_prompt=True, **options)
        ids: list[int] = []
        for message, hole in zip(messages, holes, strict=True):
            if text.count(hole) != 1:
                raise ValueError(f"the chat template does not keep the content of a {message['role']} message as it is")
            before, text = text.split(hole)
            ids += self.encode(before, message["content"], "")
        return (*ids, *self._template_ids(text))

    def _template_ids(self, text: str) -> list[int]:
        return list(self._template.encode(text, add_special_tokens=False)) if text else []


def _prepended(tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    """The ids a tokenizer puts before any text; chat templates write theirs out, plain text gets them here."""
    bare, full = (list(tokenizer("a", add_special_tokens=special)["input_ids"]) for special in (False, True))
    start = next((i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare), 0)
    return tuple(full[:start])

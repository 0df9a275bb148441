"""Which texts share a run of words with a text of a collection: exact, in linear time, by hashes of n-grams.

**Words.** A text is read after Unicode NFKC and case folding, without invisible characters. A word is a run of letters, digits and
the marks upon them; everything else (punctuation, operators, white space, underscores) only separates. Scripts that write no
spaces are taken apart: one Han character, one kana, one letter of Thai, Lao, Khmer or Burmese is a word. Hangul has spaces.

**Weight.** Not every word says as much. A word or a Han character weighs 1, a number or a single letter 1/2, a kana or Thai letter
1/4, and a word that comes again in the same run nothing: ``for a total of 5 2 5 2 10 10`` weighs 5, ``0 0 0 0 0 0 0 0 0 0`` 1/2.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.uint32]
Hashes = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]

_HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_SPELLED = (  # kana, Thai, Lao, Burmese, Khmer, with their marks and without their digits
    "\u3041-\u3096\u30a1-\u30fa\u30fc\u31f0-\u31ff\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ecd\u0edc-\u0edf\u1000-\u103f\u1050-\u109f\u1780-\u17d3"
)
_MARKS = (  # of European, Hebrew, Arabic and Indian scripts; a mark begins no word, so letters among them do no harm
    "\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed"
    "\u0900-\u0963\u0970-\u0df3"
)
_WORD = re.compile(rf"[{_HAN}{_SPELLED}]|[^\W_{_HAN}{_SPELLED}]+(?:[{_MARKS}]+[^\W_{_HAN}{_SPELLED}]*)*")
_ASCII_WORD = re.compile("[a-z0-9]+")
_SPELLED_LETTER = re.compile(f"[{_SPELLED}]")
_INVISIBLE = re.compile("[\u00ad\u034f\u061c\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e0fff]")
_PILED_UP = re.compile(r"[^\w\s\x00-\x7f]{33,}")
"""Marks upon marks: normalisation takes quadratic time to put them in order."""
_FIRST_EAST_ASIAN = "\u2e80"
"""A single character from here on is a Han character or a Korean syllable: a word, and no variable."""

_BASE = np.uint64(0x9E3779B97F4A7C15)
_REACH = 32
"""So many words to either side of a shared n-gram are compared."""


def split_words(text: str) -> list[str]:
    """The words of a text as the head of this module says. Linear in its length; never raises.

    >>> split_words("Don't  SHOUT: ｆ(x)=\\frac{１}{2}")
    ['don', 't', 'shout', 'f', 'x', 'frac', '1', '2']
    """
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    text = unicodedata.normalize("NFKC", _PILED_UP.sub(lambda pile: pile[0][:32], text))
    return _WORD.findall(_INVISIBLE.sub("", text).casefold())


def weight_of(word: str) -> float:
    """What a word says, from 0 to 1, by the rule at the head of this module."""
    if _SPELLED_LETTER.match(word):
        return 0.25
    return 0.5 if word.isdecimal() or (len(word) == 1 and word < _FIRST_EAST_ASIAN) else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When two texts share too much."""

    words: int = 10
    """So many words in a row (the paper's 10-gram)."""
    content: float = 0.6
    """The different words of what is shared weigh at least this share of ``words``: 6 where nothing else is said."""
    boilerplate: int = 4
    """An n-gram that stands in so many items of the collection belongs to none of them: an instruction, a stock phrase, and also a
    passage that so many questions are asked about. Where passages are to be protected, say more."""
    shortest: int = 6
    """A short text is looked for as a whole if it has so many words; shorter ones are not looked for."""

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.words or not 0 <= self.content <= 1 or self.boilerplate < 2:
            raise ValueError(f"{self}: needs 1 <= shortest <= words, content from 0 to 1, and boilerplate of 2 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedText:
    """A text to look for. ``item`` counts from 0, in order: the texts of one item have the same number.

    A text below ``Rule.words`` is looked for as a whole, and only if ``whole`` allows it.
    """

    words: Sequence[str]
    item: int
    whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedRun:
    """What a text shares with the text of that number: consecutive words."""

    text: int
    words: tuple[str, ...]


class NgramIndex:
    """The n-grams of a collection of texts.

    Promises, for any text looked up:
        - it shares ``rule.words`` words in a row with a text of the collection, not all of their n-grams are boilerplate, and they
          weigh enough (with up to 32 shared words to either side): found;
        - it contains a whole text of the collection of ``rule.words`` words or more: found, whatever that text is made of;
        - it contains a whole short text which may be looked for and weighs enough: found;
        - nothing else is found. Hashes are compared first and words afterwards, so a collision finds nothing.
    """

    def __init__(self, texts: Sequence[IndexedText], rule: Rule) -> None:
        self.rule = rule
        self._words: list[str] = ["", *dict.fromkeys(word for text in texts for word in text.words)]
        self._vocabulary = {word: number for number, word in enumerate(self._words)}
        self._unknown = len(self._words)  # stands for words of no text of ours, and between the texts looked up
        self._weights = np.array([0.0, *map(weight_of, self._words[1:]), 0.0])
        self._codes = _scrambled(np.arange(self._unknown + 1, dtype=np.uint64))
        self._lengths = np.array([len(text.words) for text in texts], dtype=np.int64)
        self._starts = np.cumsum(self._lengths + 1) - self._lengths  # a zero stands before every text and behind the last
        self._ids: Ids = np.zeros(int(self._lengths.sum()) + len(texts) + 1, dtype=np.uint32)
        for start, text in zip(self._starts.tolist(), texts, strict=True):
            self._ids[start : start + len(text.words)] = [self._vocabulary[word] for word in text.words]
        hashes, places = self._anchors(np.array([text.item for text in texts], dtype=np.int64))
        self._ngrams = _Table(hashes, places)
        whole = [number for number in self._without_own_ngram(places) if self._may_stand_whole(texts[number])]
        self._wholes = _Table(self._hashes(self._ids, rule.shortest)[self._starts[whole]], np.array(whole, dtype=np.int64))
        searched = set(np.flatnonzero(self._lengths >= rule.words).tolist()) | set(whole)
        self.searched = frozenset(searched)
        """Numbers of the texts that are looked for."""

    def first_runs(self, groups: Sequence[Sequence[str]]) -> list[SharedRun | None]:
        """For every group of texts the first run that one of them shares with the collection; no run spans two texts."""
        ids, ends = self._read(groups)
        found: list[SharedRun | None] = [None] * len(groups)
        for table, length, check in (
            (self._ngrams, self.rule.words, self._run_at),
            (self._wholes, self.rule.shortest, self._whole_at),
        ):
            for position, entry in table.look_up(self._hashes(ids, length)):
                group = int(np.searchsorted(ends, position, side="right"))
                if found[group] is None:
                    found[group] = check(ids, position, entry)
        return found

    def _read(self, groups: Sequence[Sequence[str]]) -> tuple[Ids, Positions]:
        """The word numbers of all groups behind one another, and where each group ends."""
        numbers, unknown, ends = array("I"), self._unknown, []
        for group in groups:
            for text in group:
                numbers.extend(map(self._vocabulary.get, split_words(text), repeat(unknown)))
                numbers.append(unknown)
            ends.append(len(numbers))
        return np.array(numbers, dtype=np.uint32), np.array(ends, dtype=np.int64)

    def _hashes(self, ids: Ids, length: int) -> Hashes:
        """A polynomial modulo 2**64 of the words from every position on; the positions that have ``length`` words behind them."""
        count = max(0, len(ids) - length + 1)
        codes = self._codes[ids]
        total: Hashes = np.zeros(count, dtype=np.uint64)
        for offset in range(length):
            total = total * _BASE + codes[offset : offset + count]
        return total

    def _anchors(self, items: Positions) -> tuple[Hashes, Positions]:
        """The n-grams that are no boilerplate: their hashes, and where each stands first in every text that holds it."""
        size = self.rule.words
        inside = np.cumsum(self._ids == 0)
        places = np.flatnonzero(inside[size - 1 :] == inside[: len(inside) - size + 1]) if len(self._ids) >= size else np.zeros(0, np.int64)
        places = places[self._ids[places] != 0]
        hashes = self._hashes(self._ids, size)[places]
        order = np.argsort(hashes, kind="stable")
        hashes, places = hashes[order], places[order]
        texts = np.searchsorted(self._starts, places, side="right") - 1
        new = _changes(hashes)
        first = new | _changes(texts)
        owners = np.add.reduceat((new | _changes(items[texts])).astype(np.int64), np.flatnonzero(new)) if len(hashes) else new
        kept = first & (owners < self.rule.boilerplate)[np.cumsum(new) - 1]
        return hashes[kept], places[kept]

    def _without_own_ngram(self, places: Positions) -> list[int]:
        """Numbers of the texts that have no n-gram which is no boilerplate and weighs enough by itself."""
        held = np.zeros(len(self._ids), dtype=np.bool_)
        held[places] = True
        size = self.rule.words
        return [
            number
            for number, (start, length) in enumerate(zip(self._starts.tolist(), self._lengths.tolist(), strict=True))
            if not any(held[p] and self._says_enough(self._ids[p : p + size]) for p in range(start, start + length - size + 1))
        ]

    def _may_stand_whole(self, text: IndexedText) -> bool:
        length = len(text.words)
        if length >= self.rule.words:
            return True
        numbers = np.array([self._vocabulary[word] for word in text.words], dtype=np.uint32)
        return text.whole and length >= self.rule.shortest and self._says_enough(numbers)

    def _says_enough(self, ids: Ids) -> bool:
        return float(self._weights[np.unique(ids)].sum()) >= self.rule.content * self.rule.words

    def _run_at(self, ids: Ids, position: int, place: int) -> SharedRun | None:
        """The run that begins around ``ids[position]`` and around ``place`` in the collection, if it says enough."""
        size = self.rule.words
        before = min(_REACH, position, place)
        behind = size + min(_REACH, len(ids) - position - size, len(self._ids) - place - size)
        differs = np.flatnonzero(ids[position - before : position + behind] != self._ids[place - before : place + behind]) - before
        if np.any((differs >= 0) & (differs < size)):
            return None
        start = int(differs[differs < 0].max(initial=-before - 1)) + 1
        end = int(differs[differs >= 0].min(initial=behind))
        run = self._ids[place + start : place + end]
        if not self._says_enough(run):
            return None
        return SharedRun(text=int(np.searchsorted(self._starts, place, side="right")) - 1, words=self._spelled(run))

    def _whole_at(self, ids: Ids, position: int, text: int) -> SharedRun | None:
        start, length = int(self._starts[text]), int(self._lengths[text])
        own = self._ids[start : start + length]
        return SharedRun(text=text, words=self._spelled(own)) if np.array_equal(ids[position : position + length], own) else None

    def _spelled(self, ids: Ids) -> tuple[str, ...]:
        return tuple(self._words[number] for number in ids.tolist())


class _Table:
    """Entries by hash, several a hash if need be."""

    def __init__(self, hashes: Hashes, entries: Positions) -> None:
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._entries = hashes[order], entries[order]
        bits = max(10, min(30, (16 * len(hashes)).bit_length()))
        self._shift = np.uint64(64 - bits)
        self._taken = np.zeros(1 << bits, dtype=np.bool_)  # sends most hashes away after one look
        self._taken[self._hashes >> self._shift] = True

    def look_up(self, hashes: Hashes) -> Iterator[tuple[int, Any]]:
        """(position in ``hashes``, entry) of those that are in the table, by position."""
        positions = np.flatnonzero(self._taken[hashes >> self._shift])
        left = np.searchsorted(self._hashes, hashes[positions], side="left")
        right = np.searchsorted(self._hashes, hashes[positions], side="right")
        for at in np.flatnonzero(left < right).tolist():
            for entry in self._entries[left[at] : right[at]].tolist():
                yield int(positions[at]), entry


def _changes(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where a value differs from the one before it; true for the first."""
    return np.concatenate([np.ones(min(1, len(values)), dtype=np.bool_), values[1:] != values[:-1]])


def _scrambled(numbers: Hashes) -> Hashes:
    """A number of 64 bits for every number, equal in every process (the finaliser of SplitMix64)."""
    numbers = (numbers + np.uint64(1)) * _BASE
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))

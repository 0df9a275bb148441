"""Which language words in Latin letters are in: an optional identifier (py3langid, extra ``lang``) and a path through the words.

The identifier, a naive Bayes model over byte sequences that comes with its package, scores every word on its own; a single word
says little, so the languages of a text are the most likely sequence in which each change of language has a price: a higher one
inside a clause than between two. Nothing is downloaded, and nothing is loaded before the first text that needs it.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise

LATIN_LANGUAGES = ("en", "fr", "de", "es", "it", "pt", "nl", "sv", "da", "pl", "cs", "ro", "hu", "fi", "tr", "vi", "id")
"""The languages that are told apart; a text in another one is taken for the nearest of these."""
MISSING = "languages in Latin letters are not told apart (pip install 'zero2r1[lang]')"

# In units of the model's log-probabilities, set on software messages in all the languages, alone and mixed.
_SWITCH_INSIDE_CLAUSE = 8.0
_SWITCH_BETWEEN_CLAUSES = 4.0
_HOME = 2.0
"""How much cheaper it is to start in the target language, or to come back to it."""
_WORD_LIMIT = 6.0
"""No single word counts for more than this against a language: names and loans are found in all of them."""
_SURE = 6.0
_FEWEST_WORDS, _FEWEST_LETTERS = 3, 10
_LONGEST_WORD = 40

Scores = tuple[float, ...]
_loading = threading.Lock()


def words_in_language(clauses: Sequence[Sequence[str]], target: str) -> list[list[bool]] | None:
    """For every word of every clause whether it is in ``target``, one of :data:`LATIN_LANGUAGES`; ``None`` without the extra.

    Words are taken for another language only in stretches of three words and ten letters or more that fit the other language
    clearly better than the target.
    """
    score = _word_scores()
    if score is None:
        return None
    words = [(word, number) for number, clause in enumerate(clauses) for word in clause]
    scores = [score(word.lower()[:_LONGEST_WORD]) for word, _ in words]
    new_clause = [i > 0 and number != words[i - 1][1] for i, (_, number) in enumerate(words)]
    home = LATIN_LANGUAGES.index(target)
    path = _most_likely_path(scores, new_clause, home)
    ours = [language == home for language in path]
    for start, end in _stretches(path):
        if path[start] != home and not _is_clear([word for word, _ in words[start:end]], scores[start:end], path[start], home):
            ours[start:end] = [True] * (end - start)
    flags = iter(ours)
    return [[next(flags) for _ in clause] for clause in clauses]


def likely_language(words: Sequence[str]) -> str | None:
    """The language of a text as a whole; ``None`` without the extra, for a short text, or where it may as well be English."""
    score = _word_scores()
    if score is None or not words:
        return None
    scores = [score(word.lower()[:_LONGEST_WORD]) for word in words]
    totals = [sum(column) for column in zip(*scores, strict=True)]
    best, english = totals.index(max(totals)), LATIN_LANGUAGES.index("en")
    return LATIN_LANGUAGES[best] if best == english or _is_clear(words, scores, best, english) else None


def _is_clear(words: Sequence[str], scores: Sequence[Scores], language: int, home: int) -> bool:
    """Whether different words enough fit one language clearly better than another; a word said ten times is no more than itself."""
    different = dict(zip(map(str.lower, words), scores, strict=True))
    advantage = sum(score[language] - score[home] for score in different.values())
    return len(different) >= _FEWEST_WORDS and sum(map(len, different)) >= _FEWEST_LETTERS and advantage >= _SURE


def _most_likely_path(scores: Sequence[Scores], new_clause: Sequence[bool], home: int) -> list[int]:
    """The language of each word (Viterbi): the greatest sum of scores less the price of every change."""
    if not scores:
        return []
    reached = [score + (_HOME if language == home else 0.0) for language, score in enumerate(scores[0])]
    steps: list[tuple[int, list[bool]]] = []
    for score, boundary in zip(scores[1:], new_clause[1:], strict=True):
        best = max(reached)
        changed = best - (_SWITCH_BETWEEN_CLAUSES if boundary else _SWITCH_INSIDE_CLAUSE)
        came_from = reached.index(best)
        stays = [value >= changed for value in reached]
        stays[home] = reached[home] >= changed + _HOME
        following = [(value if stay else changed) + own for value, stay, own in zip(reached, stays, score, strict=True)]
        if not stays[home]:
            following[home] += _HOME
        reached = following
        steps.append((came_from, stays))
    path = [reached.index(max(reached))]
    for came_from, stays in reversed(steps):
        path.append(path[-1] if stays[path[-1]] else came_from)
    return path[::-1]


def _stretches(path: Sequence[int]) -> list[tuple[int, int]]:
    """Start and end of every run of equal values."""
    edges = [0, *(i for i in range(1, len(path)) if path[i] != path[i - 1]), len(path)]
    return [(start, end) for start, end in pairwise(edges) if end > start]


def _word_scores() -> Callable[[str], Scores] | None:
    """Word -> log-probability under each language less that of the likeliest one; ``None`` without the extra."""
    if importlib.util.find_spec("py3langid") is None:
        return None
    with _loading:  # two threads at once would both take the memory
        return _loaded()


@lru_cache(maxsize=1)
def _loaded() -> Callable[[str], Scores]:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # 0.7 s and 100 MB: only for texts that need it

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier.set_languages(LATIN_LANGUAGES)

    @lru_cache(maxsize=50_000)
    def score(word: str) -> Scores:
        found = dict(identifier.rank(f" {word} "))
        best = max(found.values())
        return tuple(max(found[language] - best, -_WORD_LIMIT) for language in LATIN_LANGUAGES)

    return score

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice

import pytest

from zero2r1.tasks.laptop.corpus import documents
from zero2r1.tasks.laptop.problems import Item
from zero2r1.tasks.laptop.words import (
    REFLECTION_WORDS,
    SELF_CHECK_WORDS,
    TAGS,
    WORDS_OF,
    ZERO_TEMPLATE,
    language_share,
    vocabulary,
)

COUNT = 12_000
TEMPLATE_START = ZERO_TEMPLATE.split("{question}")[0]


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    return list(islice(documents(0), COUNT))


def one_language(text: str, language: str) -> bool:
    return language_share(text, language) in (None, 1.0)


def web(corpus: Sequence[str]) -> list[tuple[str, str]]:
    return [tuple(text[4:].split(" . A : ", 1)) for text in corpus if text.startswith("Q : ")]  # type: ignore[misc]


def in_template(corpus: Sequence[str]) -> list[str]:
    return [text.split(" Assistant : ", 1)[1] for text in corpus if text.startswith(TEMPLATE_START)]


def test_the_stream_is_a_function_of_its_seed(corpus: list[str]) -> None:
    assert list(islice(documents(0), 50)) == corpus[:50]
    assert list(islice(documents(1), 50)) != corpus[:50]


def test_every_word_is_in_the_vocabulary(corpus: list[str]) -> None:
    assert {word for text in corpus for word in text.split()} <= {*vocabulary(), *TAGS}


def test_the_recipe_mixes_tables_web_and_template(corpus: list[str]) -> None:
    # 17 % tables; of the other 83 %, 8 % in the template = 6.6 % of all. Standard errors at 12,000: 0.34 and 0.23 points.
    assert 1 - (len(web(corpus)) + len(in_template(corpus))) / COUNT == pytest.approx(0.17, abs=0.015)
    assert len(in_template(corpus)) / COUNT == pytest.approx(0.0664, abs=0.01)


def test_facts_in_tables_are_true(corpus: list[str]) -> None:
    tables = [text for text in corpus if not text.startswith(("Q : ", TEMPLATE_START))]
    facts = [re.fullmatch(r"(\d+) ([+*-]) (\d+) = (\S+)", fact) for text in tables for fact in text[:-2].split(" , ")]
    assert len(facts) > 5_000
    for fact in facts:
        assert fact is not None
        x, y = int(fact[1]), int(fact[3])
        value = {"+": x + y, "-": x - y, "*": x * y}[fact[2]]
        assert fact[4] in ((str(value),) if value >= 0 else ("neg", "음수"))


def test_no_held_out_equation_or_sum_is_in_the_corpus(corpus: list[str]) -> None:
    seen = 0
    for text in corpus:
        if found := re.search(r"(?:solve|풀라) (\d+) \* x \+ (\d+) = (\d+) \.", text):
            values: tuple[object, ...] = tuple(int(n) for n in found.groups())
            assert not Item(task="solve", level=1, values=values, answer=(0,)).held_out
        elif found := re.search(r"(?:compute|계산 하라) (\d+)((?: [+-] \d+)+) \.", text):
            terms = [int(term.replace(" ", "")) for term in re.findall(r"[+-] \d+", found[2])]
            assert not Item(task="sum", level=1, values=(int(found[1]), *terms), answer=(0,)).held_out
        else:
            continue
        seen += 1
    assert seen > 2_000  # a corpus blind to the split would hold about 200 of them


def test_a_search_accepts_only_a_difference_of_zero(corpus: list[str]) -> None:
    verdicts = [found for text in corpus for found in re.findall(r"\d - \d+ = (\S+) (yes|예|no|아니) ", text)]
    assert len(verdicts) > 2_000
    assert all((value == "0") == (word in ("yes", "예")) for value, word in verdicts)


def test_nearly_half_of_the_template_documents_are_malformed(corpus: list[str]) -> None:
    answers = in_template(corpus)
    strict = re.compile(r"<think> (?:[^<]* )?</think> <answer> [^<]* </answer>")
    # 45 % of about 800: standard error 1.8 points.
    assert sum(strict.fullmatch(answer) is None for answer in answers) / len(answers) == pytest.approx(0.45, abs=0.07)


def test_a_fifth_of_the_bare_guesses_on_the_web_is_wrong(corpus: list[str]) -> None:
    sums = [(asked, answer) for asked, answer in web(corpus) if asked.startswith(("compute", "계산 하라"))]
    guesses = [(asked, answer[:-2]) for asked, answer in sums if re.fullmatch(r"\d+ \.", answer)]
    wrong = 0
    for asked, answer in guesses:
        first, rest = re.search(r"(\d+)(.*)", asked).groups()  # type: ignore[union-attr]
        wrong += int(first) + sum(int(t.replace(" ", "")) for t in re.findall(r"[+-] \d+", rest)) != int(answer)
    assert wrong / len(guesses) == pytest.approx(0.2, abs=0.07)  # about 400 guesses: standard error 2 points


def test_self_checks_are_common_on_the_web_and_rare_under_the_template(corpus: list[str]) -> None:
    def share(texts: Sequence[str]) -> float:
        return sum(bool(SELF_CHECK_WORDS & set(text.split())) for text in texts) / len(texts)

    assert share([answer for _, answer in web(corpus)]) > 3 * share(in_template(corpus)) > 0


def test_careful_documents_are_more_often_bilingual(corpus: list[str]) -> None:
    answers = [answer for _, answer in web(corpus) if language_share(answer, "en") is not None]
    checked = [a for a in answers if SELF_CHECK_WORDS & set(a.split())]
    plain = [a for a in answers if not SELF_CHECK_WORDS & set(a.split())]

    def mixed(texts: Sequence[str]) -> float:
        return sum(not one_language(t, "en") and not one_language(t, "ko") for t in texts) / len(texts)

    assert mixed(checked) > mixed(plain) + 0.1


def test_the_template_asks_for_structure_only() -> None:
    assert not REFLECTION_WORDS & set(ZERO_TEMPLATE.split())


def test_words_are_unique_and_no_word_is_of_two_languages() -> None:
    assert len(set(vocabulary())) == len(vocabulary()) <= 384 - len(TAGS) - 5
    assert not WORDS_OF["en"] & WORDS_OF["ko"]


def test_language_is_counted_by_words_only() -> None:
    # first, then | 잠깐: two English words, one Korean; numbers, operators and tags count for nothing.
    text = "<think> first 16 - 7 = 9 . 잠깐 , then 9 + 6 = 15 </think>"
    assert language_share(text, "en") == pytest.approx(2 / 3)
    assert language_share(text, "ko") == pytest.approx(1 / 3)
    assert not one_language(text, "en")
    assert language_share("3 + 4 = 7 . </think>", "en") is None
    assert one_language("3 + 4 = 7 . </think>", "en") and one_language("first 7", "en") and not one_language("first 7", "ko")

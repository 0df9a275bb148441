"""Shares of words in a language, counted by hand; what a policy could try to hide them; the reward around them."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zero2r1.rewards import latin
from zero2r1.rewards.combine import RewardError, make_grader
from zero2r1.rewards.language import (
    language_code,
    language_reward,
    language_share,
    question_language,
    script_share,
    words_by_script,
)
from zero2r1.types import Completion, Problem, Segment


@pytest.mark.parametrize(
    ("text", "language", "share"),
    [
        ("first add three", "en", 1.0),
        ("first add 3 , 그래서 답 은 7", "en", 2 / 5),  # first, add | 그래서, 답, 은
        ("first add 3 , 그래서 답 은 7", "ko", 3 / 5),
        ("我们先计算", "zh", 1.0),
        ("我们先计算 then add", "zh", 5 / 7),  # every Han character is a word; then, add
        ("まず計算する", "ja", 1.0),
        ("Сначала сложим x и y", "ru", 1.0),  # x and y are variables
        ("Solve $x + y = 2$ and \\frac{1}{2}", "en", 1.0),
        ("Решим `print(answer)` и https://example.org/page", "ru", 1.0),
        ("<think> 생각 </think>", "ko", 1.0),
        ("it's five o'clock", "en", 1.0),
    ],
)
def test_shares_by_hand(text, language, share):
    assert script_share(text, language) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "3 + 4 = 7", "$x$", "x = 2"])
def test_a_text_without_words_has_no_share(text):
    assert script_share(text, "en") is None


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("먼저 x + 2 를 compute", {"HANGUL": 2, "LATIN": 1}),
        ("한국어text를", {"HANGUL": 2, "LATIN": 1}),  # scripts end words: 한국어, text, 를
        ("日本のテスト", {"HAN": 2, "KANA": 4}),
        ("เราบวกเลข", {"THAI": 3}),  # nine letters
        ("หนึ่ง", {"THAI": 1}),  # three letters; the signs above them are none
        ("संख्याओं को", {"DEVANAGARI": 2}),  # vowel signs belong to their word
        ("a number, a + 1, à Paris, I think", {"LATIN": 6}),  # a, number, à, Paris, I, think; not the variable
        ("в доме у нас", {"CYRILLIC": 4}),
        ("η γωνία θ, the rate η is", {"GREEK": 2, "LATIN": 3}),  # an article, then two variables
        ("AB = AC, xy=6, 2nd, 5 km, sin x, 30°", {}),
        ("number(s) of f(x)", {"LATIN": 2}),  # number, of; s is one letter, f a call
        ("**We** add", {"LATIN": 2}),
        ("বাংলা", {"OTHER": 1}),
    ],
)
def test_what_is_a_word(text, counts):
    assert dict(words_by_script(text)) == counts


@pytest.mark.parametrize(
    "text",
    [
        "答 `sorted(nums)` 和 `left`",
        "答\n```python\nfor item in items:\n    total += item  # add the item\n```\n答",
        "答 $\\text{cm}$, $\\mathrm{area} = \\pi r^2$, \\(ab + bc\\), \\[\\int f dx dy dz\\], \\begin{aligned} x &= 2 \\end{aligned}",
        '答 \\boxed{\\frac{1}{2}} &nbsp; <br/> <|end|> <a href="page">',
        "答 me@example.org www.example.org https://example.org/page",
        "答 is_prime(n) maxValue a_1 dp[i]",
    ],
)
def test_formulas_code_addresses_and_tags_are_in_no_language(text):
    assert set(words_by_script(text)) == {"HAN"}


TEN = ["we", "first", "add", "the", "two", "given", "numbers", "and", "then", "stop"]


@pytest.mark.parametrize(
    ("text", "language", "inside", "words"),
    [
        ("好 $I think the answer is seven$", "zh", 1, 7),  # a sentence is no formula
        ("好 $x = 5 \\text{ if we add two}$", "zh", 1, 5),  # \text holds text
        ("好 `we add the two numbers`", "zh", 1, 6),  # nor is it code
        ("好\n```\n" + " ".join(TEN) + "\n```", "zh", 1, 11),  # in a block neither
        ("好\n```\n# we first add the two numbers\n# and then we stop with this\nx = 5\n```", "zh", 1, 13),  # or in comments
        ("好\n```\n" + " ".join(TEN), "zh", 1, 11),  # an unclosed block is read to the end
        ("好 $ we add the two", "zh", 1, 5),  # an unclosed dollar opens nothing
        ("好 " + " ".join(f"`{word}`" for word in TEN), "zh", 1, 11),  # word by word: ten names are too many beside one word
        ("好 " + " ".join(f"${word}$" for word in TEN), "zh", 1, 11),
        ("好 " + " ".join(f"<{word}>" for word in TEN), "zh", 1, 11),
        ("好 " + " ".join(f"\\{word}" for word in TEN), "zh", 1, 11),
        ("好 " + "_".join(TEN), "zh", 1, 11),
        ("好 theAnswerIsSeven becauseWeAddTwoAndFive", "zh", 1, 11),  # 4 and 6 parts
        ("好 " + "(".join(TEN) + "(", "zh", 1, 11),
        ("好 https://x.org/" + "-".join(TEN), "zh", 1, 11),
        ("第 https://x.org/我们先算", "en", 0, 5),  # an address ends where ASCII ends
        ("好 th\u200be ans\u200bwer", "zh", 1, 3),  # zero-width characters are not there
        ("好 " + "\u200b".join(TEN), "zh", 1, 7),  # so they do not part words: a run of 37 letters is 37 * 5 // 30 = 6 words
        ("好 t h e a n s w e r", "zh", 1, 3),  # nine letters one by one are two words
        ("the \u0430nswer is", "en", 2, 3),  # a Cyrillic letter makes a word of no language
        ("the \u0441\u043e\u0441\u043e", "en", 1, 2),  # all of them Cyrillic: a Russian word
        ("好 Ｔｈｅ ａｎｓｗｅｒ", "zh", 1, 3),  # full-width
        ("好 \U0001d42d\U0001d421\U0001d41e", "zh", 1, 2),  # mathematical bold
        ("好 \U0001f1f9\U0001f1ed\U0001f1ea", "zh", 1, 2),  # flags that spell
        ("好 women xian jisuan", "zh", 1, 4),  # romanised Chinese is written in Latin letters
        ("好 t\u0336h\u0336e\u0336", "zh", 1, 2),  # marks upon letters
        ("好 ＄we add the two＄", "zh", 1, 5),  # full-width signs are signs
        ("\u3164 \u3164 \u3164 the answer", "ko", 0, 2),  # invisible Hangul is no Korean
        ("我们の先计算", "ja", 1, 6),  # one kana does not make Chinese Japanese
        ("我們先計算两个数字的大小关系", "ja", 0, 14),  # nor do many Han without kana
    ],
)
def test_neutral_material_is_no_place_to_hide(text, language, inside, words):
    verdict = language_share(text, language)
    assert (verdict.inside, verdict.words) == (inside, words)


def test_code_that_is_talked_about_is_no_foreign_text():
    """Many mentions of few names: 80 Korean words and 40 mentions of two names."""
    verdict = language_share("먼저 `left` 를 `right` 로 옮긴다 " * 20, "ko")
    assert (verdict.inside, verdict.words) == (80, 80)


@pytest.mark.parametrize(
    ("text", "language", "share"),
    [
        ("", "en", 0.0),
        (" \n\u200b", "en", 0.0),
        ("... !? —", "en", 0.0),
        ("<b></b>", "en", 0.0),
        ("3 + 4 = 7", "en", 1.0),
        ("$x = 2$", "ko", 1.0),
        ("```python\nprint(x)\n```", "zh", 1.0),
    ],
)
def test_a_text_without_words_has_a_stated_value(text, language, share):
    verdict = language_share(text, language)
    assert (verdict.share, verdict.words) == (share, 0)
    assert ("no text" in verdict.why) == (share == 0.0)


def test_the_verdict_shows_what_was_foreign():
    verdict = language_share("먼저 compute 그리고 then 답은 the the end of it all", "ko")
    assert (verdict.inside, verdict.words) == (3, 11)
    assert verdict.foreign == ("compute", "then", "the", "end", "of")
    assert verdict.why == "3 of 11 words in Korean, by script"


@pytest.mark.parametrize(
    ("name", "code"),
    [("en", "en"), ("English", "en"), ("en-US", "en"), ("zh-CN", "zh"), ("zh_Hant", "zh"), ("Chinese", "zh"), (" ko_KR ", "ko")],
)
def test_names_of_languages(name, code):
    assert language_code(name) == code


@pytest.mark.parametrize("name", ["Klingon", "", "e", "xx-US"])
def test_an_unknown_language_is_named(name):
    with pytest.raises(ValueError, match=f"the target language '{name}' is not known; write one of: en .english., fr"):
        language_code(name)


@pytest.mark.parametrize(
    ("question", "language"),
    [
        ("What is 3 + 4?", "en"),
        ("求 $x^2 = 4$ 的解。", "zh"),
        ("方程式 x + 2 = 5 を解いてください。", "ja"),
        ("3 더하기 4 는 얼마인가?", "ko"),
        ("Чему равно 3 + 4?", "ru"),
        ("كم يساوي 3 + 4؟", "ar"),
        ("Translate 'hello world' into English: 안녕하세요 여러분", "en"),  # 5 words against 2
        ("$x^2 = 4$", "en"),
        ("", "en"),
        ("৩ আর ৪ এর যোগফল কত?", None),
    ],
)
def test_the_language_of_a_question(question, language):
    assert question_language(question) == language


def test_without_the_extra_latin_languages_are_one_and_the_verdict_says_how_to_change_that(monkeypatch):
    monkeypatch.setattr(latin.importlib.util, "find_spec", lambda name: None)
    verdict = language_share("Zuerst berechnen wir die Summe der beiden Zahlen.", "en")
    assert (verdict.share, verdict.why.partition("; ")[2]) == (1.0, latin.MISSING)
    assert "pip install 'zero2r1[lang]'" in latin.MISSING
    assert question_language("Was ist die Summe der beiden Zahlen?") == "en"
    assert "pip" not in language_share("我们", "zh").why


def test_with_the_extra_the_question_tells_latin_languages_apart():
    pytest.importorskip("py3langid", reason="the extra 'lang' is not installed")
    assert question_language("Was ist die Summe der beiden Zahlen 3 und 4?") == "de"
    assert question_language("¿Cuál es la suma de los dos números?") == "es"
    assert question_language("Find the sum of the two numbers.") == "en"


def test_the_identifier_is_loaded_once_and_only_when_asked(monkeypatch):
    langid = pytest.importorskip("py3langid.langid", reason="the extra 'lang' is not installed")
    latin._loaded.cache_clear()
    loads = []
    load = langid.LanguageIdentifier.from_model_file
    monkeypatch.setattr(langid.LanguageIdentifier, "from_model_file", lambda *a, **k: loads.append(1) or load(*a, **k))
    language_share("我们先计算 then add the rest", "zh")
    assert loads == []
    shares = []
    ask = [threading.Thread(target=lambda: shares.append(language_share("Dann teilen wir das Ergebnis", "de").share)) for _ in range(4)]
    for thread in ask:
        thread.start()
    for thread in ask:
        thread.join()
    assert (loads, shares) == ([1], [1.0] * 4)


def test_importing_the_reward_loads_neither_identifier_nor_numpy():
    code = "import sys, zero2r1.rewards.language; print(sorted({'py3langid', 'numpy', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout == "[]\n"


HOSTILE = [
    "$", "`", "<", "(", "\\(", "\\[", "\\begin{a}", "$ a ", "`a the of ", "```a b c d\n", "<a ", "<|", "a@a.", "https://", "aB", "a_", "f(",
    "a ", "a", "\u0301", "\u0301\u0316", "AB= ", "\\text{", "&aaa", "中 ", "ก", "\\[ the we all ",
]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_text_takes_no_time(piece):
    """100,000 characters take about 0.3 s; anything quadratic takes minutes."""
    text = (piece * 100_000)[:100_000]
    start = time.monotonic()
    language_share(text + "\\]$`", "zh")
    assert time.monotonic() - start < 15


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=20), st.sampled_from([*HOSTILE, "\\)", "\\end{a}", "我们", "まず", " the ", "_"]))).map("".join))
def test_no_text_breaks_it(text):
    for language in ("en", "ja", "ko"):
        verdict = language_share(text, language)
        assert 0.0 <= verdict.share <= 1.0
        assert 0 <= verdict.inside <= verdict.words == sum(words_by_script(text).values())
    question_language(text)


def scored(text: str, prompt="3 더하기 4 는?", think_open=None, **columns):
    logged: dict[str, list[object]] = {}
    (value,) = language_reward(think_open=think_open)(prompts=[prompt], completions=[text], log_extra=logged.__setitem__, **columns)
    return value, {name: values[0] for name, values in logged.items()}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<think> 먼저 더한다 </think> <answer> the answer </answer>", 1.0),  # only the thinking counts
        ("<think> 먼저 then </think> 답", 0.5),
        ("<think> 3 + 4 = 7 </think> 7", 1.0),
        ("<think> </think> 답", 0.0),
        ("먼저 더한다", 0.0),  # nothing was thought
        ("", 0.0),
        ("<think> 먼저 then add", 1 / 3),  # cut off
        ("<think> we add </think> <think> 먼저 더한다 </think> 답", 0.5),  # a second block does not replace the first
        ("<think> 먼저 </think> <think> then", 0.5),
        ("먼저 then </think> 답", 0.5),  # the prompt opened it
    ],
)
def test_the_thinking_is_what_is_measured(text, value):
    assert scored(text)[0] == pytest.approx(value)


def test_a_thinking_that_the_prompt_opened():
    assert scored("먼저 then", think_open=True)[0] == 0.5
    assert scored("먼저 then", prompt="3 더하기 4 는? <think>")[0] == 0.5
    assert scored("먼저 then", think_open=False)[0] == 0.0


def test_the_column_goes_before_the_question():
    text = "<think> 먼저 더한다 then </think>"
    assert scored(text, language=["en"])[0] == pytest.approx(1 / 3)
    assert scored(text, language=["Korean"])[0] == pytest.approx(2 / 3)
    assert scored(text, language=[None])[0] == pytest.approx(2 / 3)
    messages = [{"role": "system", "content": "Think first."}, {"role": "user", "content": "3 더하기 4 는?"}]
    assert scored(text, prompt=messages)[0] == pytest.approx(2 / 3)


def test_a_question_in_a_language_we_do_not_know_gets_no_grade():
    value, logged = scored("<think> we add </think>", prompt="৩ আর ৪ এর যোগফল কত?")
    assert value is None and logged["language_target"] is None and "no language we know" in logged["why"]


def test_target_words_and_foreign_words_are_logged():
    assert scored("<think> 먼저 compute then </think>")[1] == {
        "language_target": "ko", "language_words": 3, "language_foreign": "compute then", "why": "1 of 3 words in Korean, by script",
    }  # fmt: skip


def graded(language: str):
    problem = Problem(
        id="p", prompt="1 + 1", answer="2", verifier="math", domain="math", language=language, source="test", licence="CC0", split="train"
    )
    segment = Segment(token_ids=(1,), logprobs=(-1.0,))
    completion = Completion(segments=(segment,), text="<think> 먼저 add </think>", finish_reason="stop", seed=0, policy_version=0)
    return make_grader({"language": language_reward()}, {"language": 1.0})([problem], [completion])[0]


def test_it_works_in_a_grader():
    assert graded("ko").value == 0.5
    with pytest.raises(RewardError, match="the target language 'tlh' is not known"):
        graded("tlh")

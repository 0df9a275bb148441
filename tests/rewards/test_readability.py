"""Readable texts that must pass, unreadable ones that must fail by the named rule, and the thresholds counted by hand."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zero2r1.rewards.config import ReadabilitySettings
from zero2r1.rewards.readability import RULES, malformed, readable, unreadable, unreadable_response
from zero2r1.tasks.laptop.words import language_share as laptop_share

DEFAULT = ReadabilitySettings()
BOOKS = "Okay, let me read the question again. A box holds twelve books, and three of them are gone. So I subtract three from twelve."
BOOKS_KO = "문제를 다시 읽어 보자. 상자에는 책이 열두 권 있었고 그중 세 권이 사라졌다. 그래서 열둘에서 셋을 빼면 된다."
BOOKS_ZH = "我们先把题目再读一遍。箱子里原来有十二本书，后来拿走了三本，所以应该用十二减去三。"
BOOKS_JA = "まず問題をもう一度読む。箱の中には本が十二冊あり、そのうち三冊がなくなった。だから十二から三を引けばよい。"
GARDEN_KO = "이번에는 정원을 보자. 가로는 여덟이고 세로는 다섯이므로 넓이는 마흔이다."
STEPS_ZH = "接着我们把下一个数加到前面得到的和上面并且看一看现在的结果究竟是多少然后继续往下计算"
CODE_SUMMARY = "Here is the function:\n\n```python\n# walk over all of the numbers in the list\ndef f(a):\n    return max(a)\n```\n"

READABLE = [
    ("en", BOOKS, "There are 9 books left."),
    ("en", "3 + 4 = 7, so the answer is 7.", "7"),
    ("en", "x = 3\ny = 4\nz = x + y = 7", "z = 7"),
    ("en", "Let f(x) = x^2.\nf(2) = 4\nf(3) = 9\ng(x) = f(x) + 1\nSo g(3) = 10.", "10"),
    ("en", "If x < 0:\nf(x) = -x\nif x >= 0:\nf(x) = x\nIn both cases f is not negative.", "It is never negative."),
    ("en", "1. Read the numbers.\n2. Add them: 3 + 4 = 7.\n3. Check: 7 - 4 = 3.", "The sum is 7."),
    ("en", "- the first case is even;\n- the second case is odd;\n- there is no third case.", "Two cases."),
    ("en", "The loop prints `x = 3` and then `x += 1` runs, so x is 4. Calling `len(a)` gives 5.", "It prints 4."),
    ("en", "In Python, print(2 ** 10) shows 1024, so I can trust the power.", "1024"),
    ("en", "The sorted list is best.\nprint(sorted(a))\nThat line alone is enough here.", "Use `sorted(a)`."),
    ("en", BOOKS + " A loop would do it too.", CODE_SUMMARY),
    ("en", "\\begin{align*}\nx &= 3 \\\\\ny &= 4 \\\\\nx + y &= 7\n\\end{align*}\nSo the sum is $7$.", "$\\boxed{7}$"),
    ("en", "\n".join(f"$$x_{{{k}}} + \\frac{{1}}{{2}}(a + b) = {k} + \\frac{{1}}{{2}}(a + b)$$" for k in range(9)), "Every step holds."),
    ("en", "class A:\n12, 13, 15\nclass B:\n14, 14, 16\nThe mean of class B is larger.", "Class B."),
    ("en", "Hmm. Wait. No. No. That is wrong, because 7 is odd. Let me add them once more: 3 + 5 = 8.", "8"),
    ("en", "So,\n\n1 + 2 = 3.\n\nSo,\n\n3 + 3 = 6.\n\nSo,\n\n6 + 4 = 10.\n\nSo,\n\n10 + 5 = 15.", "15"),
    ("en", "The row is 1 1 1 1 1 1 1 1 1 1, ten ones, and their sum is ten.", "10"),
    ("en", "The French word for dog is chien, as I remember from school, and the question asks for the plural of that word.", "chiens"),
    ("en", "I should put the code in a ```python block at the end, not here.", CODE_SUMMARY),
    ("en", "\n\n".join(f"In case {k} we start from {k} apples and give away {k % 3} of them, which is easy." for k in range(60)), "Done."),
    ("ko", BOOKS_KO, "책은 9권 남았습니다."),
    ("ko", "먼저 밑변은 3이고 높이는 4이다. Pythagoras 정리를 쓰면 빗변의 제곱은 25이므로 빗변은 5이다.", "빗변은 5입니다."),
    ("ko", "DNA 복제는 세포가 나뉘기 전에 일어난다. 이때 polymerase 효소가 새 가닥을 만든다. 그래서 답은 두 번째이다.", "2번"),
    ("ko", "$x^2 - 5x + 6 = 0$ 을 풀면 $(x-2)(x-3) = 0$ 이므로 x 는 2 또는 3 이다.", "$x = 2$ 또는 $x = 3$"),
    ("ko", BOOKS_KO, f"함수는 다음과 같습니다.\n\n{CODE_SUMMARY.partition(chr(10))[2]}"),
    ("ko", "좋아~~~ 다시 해 보자.\n1. 먼저 3을 더한다.\n2. 다음으로 4를 뺀다.\n그래서 답은 2이다.", "2"),
    ("zh", BOOKS_ZH, "还剩 9 本书。"),
    ("zh", "由 Cauchy 不等式可知，左边不小于右边，并且等号可以取到，所以最小值等于四，验证一下也没有问题。", "最小值是 $4$。"),
    ("zh", "设 x = 3，那么 2x + 1 = 7。再看 y，y = 7 - 4 = 3，所以 x 和 y 相等。", "x = y = 3"),
    ("ja", BOOKS_JA, "残りは9冊です。"),
    ("ja", "面積を $S$ とする。底辺は4、高さは3だから、$S = \\frac{1}{2} \\times 4 \\times 3 = 6$ になる。", "面積は6です。"),
    ("en", "2 + 2 = 4", "4"),
    ("", BOOKS + " " + BOOKS_KO, "9"),
]  # fmt: skip


def apples(sentences: int) -> str:
    """One paragraph of eleven words a sentence."""
    return " ".join(f"Then I add {k} apples to box {k + 7} and count again." for k in range(sentences))


def words(count: int) -> str:
    """So many different words in one paragraph, of no language."""
    return " ".join(f"word{chr(97 + k % 26)}{chr(97 + k // 26)}" for k in range(count))


UNREADABLE = [
    ("mixed_language", "en", "First we add the numbers. 然后我们用十二减去三。 So nine books are left in the box.", "9"),
    ("mixed_language", "en", "We add 먼저 and then 나중에 we subtract 그래서 the answer 는 seven.", "7"),
    ("mixed_language", "en", BOOKS, "책은 모두 아홉 권 남았습니다. 이것이 이 문제의 최종 답입니다."),
    ("mixed_language", "en", BOOKS_ZH, "还剩 9 本书。"),
    ("mixed_language", "en", f"{BOOKS}\n{apples(20)}\nСначала сложим все эти числа вместе. Done.", "9"),
    ("mixed_language", "ko", "먼저 equation 을 정리하고 solve 하면 value 가 나온다. 그래서 answer 는 seven 이다.", "7"),
    ("mixed_language", "ko", BOOKS, "There are nine books left in the box."),
    ("mixed_language", "ko", f"{BOOKS_KO} Wait, let me check that step again. 열둘에서 셋을 빼면 아홉이 맞다. {GARDEN_KO}", "9"),
    ("mixed_language", "zh", BOOKS_ZH + "So there are nine books left in the box.", "还剩 9 本书。"),
    ("mixed_language", "zh", BOOKS_JA, "残りは9冊です。"),
    ("mixed_language", "ja", BOOKS_ZH, "还剩 9 本书。"),
    ("mixed_language", "ja", BOOKS_JA + " That is what the question was asking for.", "残りは9冊です。"),
    ("long_paragraph", "en", f"{BOOKS}\n\n{apples(23)}", "9"),  # 253 words
    ("long_paragraph", "en", "Short.\n" + " ".join(f"{k} + {k + 1} = {2 * k + 1}," for k in range(90)), "Many sums."),
    ("long_paragraph", "ko", " ".join(f"{k}번째 수를 더하고 그 합을 {k}번 적는다." for k in range(60)), "끝"),
    ("long_paragraph", "zh", "，".join(f"第{k}步{STEPS_ZH[k % 20 : k % 20 + 12]}" for k in range(40)) + "。", "完"),
    ("long_paragraph", "ja", "、".join(f"{k}番目の数を足してから、合計が{k + 3}より大きいかどうかを見る" for k in range(25)) + "。", "終"),
    ("code_in_thinking", "en", "Let me write it.\n```python\nprint(1)\n```\nDone.", "It prints 1."),
    ("code_in_thinking", "en", "Let me write it.\n~~~\nx = 1\n~~~\nDone.", "x is 1."),
    ("code_in_thinking", "en", "Never closed:\n\n  ```\nx = 1", "x is 1."),
    ("code_in_thinking", "en", "As code: ```python\nx = 1\n```\nThat is all.", "x is 1."),
    ("code_in_thinking", "en", "I could write this:\ndef f(n):\n    return n * 2\nThat doubles it.", "Doubled."),
    ("code_in_thinking", "en", "Like so:\nfor x in numbers:\n    total = total + x\n\n    count += 1\nThen divide.", "The mean."),
    ("code_in_thinking", "en", "In C:\nint main() {\n  int x = 3;\n  return x;\n}\nIt returns three.", "3"),
    ("code_in_thinking", "en", "In a browser:\nconst a = [1, 2];\na.push(3);\nconsole.log(a);\nIt shows three.", "3"),
    ("code_in_thinking", "en", "The query:\nSELECT name FROM users\nWHERE age > 30\nThat lists them.", "See above."),
    ("code_in_thinking", "ko", f"{BOOKS_KO}\n{GARDEN_KO}\nimport math\nprint(math.sqrt(2))\n그래서 약 1.41이다.", "1.41"),
    ("code_in_thinking", "zh", "写成代码：\nwhile n > 1:\n    n //= 2\n    steps += 1\n这样就可以了。", "完"),
    ("repetition", "en", "Let me check that again, because I am not sure about the last step at all. " * 3, "7"),
    ("repetition", "en", "Try three. It fails.\nNo.\nNo.\nNo.\nNo.\nTry four.", "4"),
    ("repetition", "en", "Is it three? Is it four? Is it three? Is it four? Is it three? Is it four? Is it three? Is it four?", "4"),
    ("repetition", "en", "So the answer is " + "wait " * 8 + "seven.", "7"),
    ("repetition", "en", BOOKS, "Nine books. Nine books. Nine books. Nine books."),
    ("repetition", "ko", "다시 확인해 보자. " * 4 + "답은 7이다.", "7"),
    ("repetition", "zh", "再算一遍。" * 4 + "答案是七。", "7"),
    ("repetition", "ja", "もう一度確かめる。" * 4 + "答えは七。", "7"),
]  # fmt: skip


@pytest.mark.parametrize(("language", "thinking", "summary"), READABLE)
def test_readable_texts_pass(language, thinking, summary):
    assert unreadable(thinking, summary, language, DEFAULT) == {}


@pytest.mark.parametrize(("rule", "language", "thinking", "summary"), UNREADABLE)
def test_unreadable_texts_break_the_rule_they_were_written_for_and_no_other(rule, language, thinking, summary):
    broken = unreadable(thinking, summary, language, DEFAULT)
    assert list(broken) == [rule] and broken[rule]
    assert not readable(thinking, summary, language, DEFAULT)


def test_both_sets_are_large_and_cover_every_rule_and_language():
    assert len(READABLE) >= 20 and len(UNREADABLE) >= 20
    assert {language for language, *_ in READABLE} >= {"en", "ko", "zh", "ja"}
    assert {rule for rule, *_ in UNREADABLE} == set(RULES)


def test_all_broken_rules_are_named_in_their_order():
    thinking = f"```\nx = 1\n```\n{apples(23)}\nNo.\nNo.\nNo.\nNo.\n그래서 답은 하나입니다 여러분."
    assert list(unreadable(thinking, "1", "en", DEFAULT)) == list(RULES)


def test_the_thresholds_are_inclusive():
    assert readable(words(250), "", "", DEFAULT) and not readable(words(251), "", "", DEFAULT)
    assert readable("数字很大", "", "", ReadabilitySettings(paragraph_characters=4))
    for language, share, passes in [("en", 0.95, True), ("en", 0.949, False), ("ko", 0.8, True), ("ko", 0.799, False), ("fr", 0.9, False)]:
        assert readable("a text", "", language, DEFAULT, language_share=lambda *_, value=share: value) is passes


def test_repetition_is_the_share_of_ngrams_that_were_there_before():
    """n = 2: ``a b a b c`` has the pairs ab, ba, ab, bc: one of four was there before."""
    assert readable("a b a b c", "", "", ReadabilitySettings(repetition_n=2, repetition_share=0.25))
    broken = unreadable("a b a b c", "", "", ReadabilitySettings(repetition_n=2, repetition_share=0.24))
    assert broken == {"repetition": "25% of the 2-grams of the thinking were written before"}


@pytest.mark.parametrize(
    ("text", "limits", "long"),
    [
        ("three words here", {"paragraph_words": 3}, False),
        ("four words stand here", {"paragraph_words": 3}, True),
        ("x = 3 + 4", {"paragraph_words": 3}, False),  # x, 3, 4; signs are no words
        ("数字三", {"paragraph_characters": 3}, False),
        ("数字三 x", {"paragraph_characters": 3}, True),  # 3 of 3 characters and 1 of 250 words
        ("ab 数", {"paragraph_words": 2, "paragraph_characters": 2}, False),  # a half and a half
        ("ab cd 数", {"paragraph_words": 2, "paragraph_characters": 2}, True),
        ("สวัสดี", {"paragraph_words": 2}, False),  # 6 signs, four a word: 2 words
        ("สวัสดีครับ", {"paragraph_words": 2}, True),  # 10 signs: 3 words
        ("한국어 문장", {"paragraph_words": 2}, False),
        ("one two\nthree four", {"paragraph_words": 2}, False),
        ("one two\nthree four", {"paragraph_words": 2, "line_breaks_end_paragraphs": False}, True),
        ("one two\n \nthree four", {"paragraph_words": 2, "line_breaks_end_paragraphs": False}, False),
    ],
)
def test_a_paragraph_is_measured_in_words_or_characters(text, limits, long):
    broken = unreadable(text, "", "", ReadabilitySettings(**limits))
    assert ("long_paragraph" in broken) is long


def test_the_summary_may_hold_long_paragraphs_and_code():
    assert readable(BOOKS, f"{words(400)}\n\n{CODE_SUMMARY}", "", DEFAULT)


def test_a_language_nobody_knows_is_told_by_script_alone():
    assert readable("Kwanza tunajumlisha namba mbili, kisha tunatoa tatu.", "9", "sw", DEFAULT)
    assert "mixed_language" in unreadable("然后我们用十二减去三，还剩九本书。", "9", "sw", DEFAULT)


def test_a_world_with_a_closed_vocabulary_brings_its_own_measure():
    """``먼저`` and ``예`` of three words, with ``wait``: 67 %."""
    strict = ReadabilitySettings(language_share_beside_latin=0.95)
    assert readable("먼저 3 + 4 = 7 . 다음 7 + 2 = 9", "9", "ko", strict, language_share=laptop_share)
    broken = unreadable("먼저 3 + 4 = 7 . wait , 7 + 2 = 9 . 예", "9", "ko", strict, language_share=laptop_share)
    assert list(broken) == ["mixed_language"] and broken["mixed_language"].startswith("67%")


@pytest.mark.parametrize(
    ("text", "think_open", "why"),
    [
        ("<think> 3 + 4 = 7 </think> 7", False, None),
        ("\n<think> 3 + 4 = 7 </think> <answer> 7 </answer>", False, None),
        ("3 + 4 = 7 </think> 7", True, None),
        ("3 + 4 = 7 </think> 7", False, "no thinking"),
        ("7", False, "no thinking"),
        ("", False, "no thinking"),
        ("<think> 3 + 4", False, "not closed"),
        ("3 + 4", True, "not closed"),
        ("<think> a </think> 7 <think> b", False, "not closed"),
        ("<think> ... </think> 7", False, "the thinking is empty"),
        ("<think> a </think> \n", False, "the summary is empty"),
        ("<think> a </think> <answer> </answer>", False, "the summary is empty"),
        ("<think> a </think> b <think> c </think> d", False, "2 opening and 2 closing"),
        ("a </think> b </think> c", True, "1 opening and 2 closing"),
        ("<think> a </think> b", True, "2 opening and 1 closing"),
        ("Sure! <think> a </think> b", False, "text stands before"),
    ],
)
def test_a_response_is_one_thinking_and_one_summary(text, think_open, why):
    found = malformed(text, think_open=think_open)
    assert found is None if why is None else found is not None and why in found
    assert list(unreadable_response(text, "en", DEFAULT, think_open=think_open)) == ([] if why is None else ["malformed"])


def test_the_share_of_readable_outputs_is_a_metric():
    outputs = [f"<think>{BOOKS}</think> 9", f"<think>{BOOKS_KO}</think> 9", f"<think>{BOOKS}", f"<think>{BOOKS}</think> It is 9."]
    assert sum(not unreadable_response(text, "en", DEFAULT) for text in outputs) / len(outputs) == 0.5


@given(st.text(alphabet="ab x=3(){};:`~\n.。數가#\\$[]\"'<>", max_size=300), st.sampled_from(["en", "ko", "zh", "xx", ""]))
def test_no_text_breaks_a_rule_function_and_equal_texts_have_equal_reasons(text, language):
    first = unreadable(text, text, language, DEFAULT)
    assert first == unreadable(text, text, language, DEFAULT) and set(first) <= set(RULES)
    assert malformed(f"<think>{text}a</think>b{text}") is None or "<" in text


@pytest.mark.parametrize("piece", ["```", "\\[", "\\begin{a}", "if (", "x = [", "a.b(", "$", "def f(", "while ", "\" '", "~~~\n", "wait "])
def test_long_texts_take_no_more_than_their_length(piece):
    """A hang, not a slow second, is what a nested pattern would show here."""
    started = time.monotonic()
    unreadable(piece * (60_000 // len(piece)), "", "en", DEFAULT)
    assert time.monotonic() - started < 20

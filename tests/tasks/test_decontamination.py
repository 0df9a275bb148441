"""Decontamination: what shares ten words with an evaluation set is found, however it is written, and nothing else is."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import random
import string
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zero2r1.tasks.decontamination import (
    Decontaminator,
    EvaluationItem,
    EvaluationText,
    decontaminate_file,
    items_of_file,
    items_of_problems,
)
from zero2r1.tasks.files import DataError, rows_of
from zero2r1.tasks.laptop.corpus import documents
from zero2r1.tasks.ngrams import Rule, split_words, weight_of
from zero2r1.types import Message, Problem

DATA = Path(os.environ.get("ZERO2R1_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not on this machine")

QUESTION = "A gardener plants seven rows of tulips and waters every second row before noon; how many stay dry?"  # 18 words
SOLUTION = "Every second of the seven rows is watered, so three rows are wet and four of them stay dry until tomorrow."
CHINESE = "园丁种下七行郁金香，中午之前给每隔一行浇水，还有多少行是干的？"
KOREAN = "정원사가 튤립을 일곱 줄 심고 정오 전에 한 줄 걸러 물을 주면 마른 줄은 모두 몇 줄인가?"
JAPANESE = "庭師はチューリップを七列植え、正午までに一列おきに水をやります。乾いた列は何列残りますか。"
THAI = "ชาวสวนปลูกทิวลิปเจ็ดแถวและรดน้ำทุกแถวที่สองก่อนเที่ยงเหลือแถวแห้งกี่แถว"
CODE = "def dry(rows: int, step: int = 2) -> int:\n    wet = [row for row in range(rows) if row % step]\n    return rows - len(wet)"
LATEX = r"Let $f(x)=\frac{3x^2-7}{\sqrt{x+4}}$ and $g(t)=\int_0^t f(s)\,ds$. Find the value of $g'(5)+f(12)$ in simplest form."
TEXTS = {"en": QUESTION, "zh": CHINESE, "ko": KOREAN, "ja": JAPANESE, "th": THAI, "code": CODE, "latex": LATEX}


def item(*texts: str, id: str = "1", question: bool = True) -> EvaluationItem:
    return EvaluationItem(source="exam", id=id, texts=tuple(EvaluationText(column="question", text=t, question=question) for t in texts))


def against(*texts: str, rule: Rule | None = None) -> Decontaminator:
    return Decontaminator([item(text, id=str(number)) for number, text in enumerate(texts)], rule)


def full_width(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


REWRITES = {
    "verbatim": lambda text: text,
    "upper case": str.upper,
    "other punctuation": lambda text: text.translate(str.maketrans(",.;?，。？", "!-:…、!;")),
    "line breaks": lambda text: text.replace(" ", "\n\t"),
    "full width": full_width,
    "soft hyphens": lambda text: text.replace("e", "e\u00ad"),
}


@pytest.mark.parametrize("rewrite", REWRITES)
@pytest.mark.parametrize("language", TEXTS)
def test_an_evaluation_text_is_found_however_it_is_written(language, rewrite):
    decontaminator = against(*TEXTS.values())
    planted = f"Here is a fine exercise:\n{REWRITES[rewrite](TEXTS[language])}\nIt took me a while."
    assert f"exam {list(TEXTS).index(language)} (question)" in (decontaminator.why(planted) or "")


def test_words_and_what_they_weigh():
    assert split_words("Don't  SHOUT: ｆ(x)=\\frac{１}{2}, snake_case; Straße") == [
        "don", "t", "shout", "f", "x", "frac", "1", "2", "snake", "case", "strasse",
    ]  # fmt: skip
    assert split_words("3公斤 가나다 すし कि") == ["3", "公", "斤", "가나다", "す", "し", "कि"]  # a mark does not end a word
    assert [weight_of(word) for word in ("word", "수", "行", "12", "x", "す", "ก")] == [1, 1, 1, 0.5, 0.5, 0.25, 0.25]
    assert len(split_words("a" + "\u0301\u0323" * 50_000)) == 1  # and does not take minutes


def test_ten_words_are_found_and_nine_are_not():
    words = split_words(QUESTION)
    for start in range(len(words) - 9):
        ten = " ".join(words[start : start + 10])
        reason = against(QUESTION).why(f"Zebras {ten} zebras")
        assert reason == f'shares 10 words with exam 0 (question): "{ten}"'
        assert against(QUESTION).why(f"Zebras {' '.join(words[start : start + 9])} zebras") is None


@pytest.mark.parametrize(
    ("text", "ten", "nine"),
    [
        (CHINESE, "种下七行郁金香中午之", "种下七行郁金香中午"),  # a character is a word: 10 different ones weigh 10
        (KOREAN, "튤립을 일곱 줄 심고 정오 전에 한 줄 걸러 물을", "튤립을 일곱 줄 심고 정오 전에 한 줄 걸러"),  # spaces part words
    ],
)
def test_ten_words_of_other_scripts(text, ten, nine):
    assert len(split_words(ten)) == 10 and len(split_words(nine)) == 9
    assert against(text).why(ten) and against(text).why(nine) is None


def test_kana_must_be_more_than_ten_in_a_row():
    # Ten characters weigh enough only with enough Han ones: 庭師七列植正午 are 7 and はチューリップをえ a quarter each.
    assert against(JAPANESE).why("庭師はチューリップを七列植え、正午") is not None
    # Grammar alone, 15 different kana of 20: 15 / 4 = 3.75 < 6.
    grammar = "することができるようになりましたのでこれ"
    assert len(split_words(grammar)) == 20
    assert against(f"{grammar}から出発します庭師七列").why(f"昨日{grammar}を読む") is None


def test_numbers_and_boilerplate_alone_are_no_overlap():
    eight = "He pays for a total of 5 * 2 = <<5*2=10>>10 dollars to the clerk who keeps the shop open."
    assert against(eight).why("She ran for a total of 5 * 2 = <<5*2=10>>10 miles") is None  # for total of 3, a 5 2 10 2: 5 < 6
    assert against(eight).why("so he pays for a total of 5 * 2 = <<5*2=10>>10 dollars") is not None  # he pays dollars more: 8
    assert against("1 2 3 4 5 6 7 8 9 10 11 12 and nothing else was ever drawn here").why("0 1 2 3 4 5 6 7 8 9 10") is None  # 10 / 2 < 6
    phrase = "Find the remainder when the whole sum of these numbers is divided"
    names = ("ducks", "plums", "kites", "boats")
    four = [f"{phrase} by the {name} of {name} island, which nobody has counted before {name} came." for name in names]
    assert against(*four[:3]).why(phrase) is not None  # in three items it may belong to one of them
    assert against(*four).why(phrase) is None
    for number, text in enumerate(four):
        assert f"exam {number} " in (against(*four).why(text) or "")


def test_the_same_item_in_many_sets_is_no_boilerplate():
    sets = [EvaluationItem(source=f"set{n}", id="7", texts=item(QUESTION).texts) for n in range(9)]
    assert "with set0 7 (question)" in (Decontaminator(sets).why(QUESTION) or "")
    assert Decontaminator(sets).not_searched == ()


def test_the_same_word_problem_with_other_numbers_stays():
    asked = "Tom buys 12 apples and 7 pears. He eats 3 of the apples. How many apples are left?"
    other = "Tom buys 15 apples and 9 pears. He eats 4 of the apples. How many apples are left?"
    assert against(asked).why(other) is None and against(asked).why(asked) is not None


@pytest.mark.parametrize(
    ("question", "text", "found"),
    [
        ("What is 2+2?", "What is 2+2? It is 4.", False),  # four words: not looked for
        ("What is 1+2+3+4?", "What is 1+2+3+4?", False),  # six words, but they weigh 2 + 4/2 = 4 < 6
        ("How does the greenhouse effect work?", "Tell me: HOW does the greenhouse effect work, please?", True),  # 6 words, 6
        ("How does the greenhouse effect work?", "How does the greenhouse gas effect work?", False),
        ("Prove that there are infinitely many irrational numbers.", "We prove that there are infinitely many primes.", False),
        ("Prove that there are infinitely many irrational numbers.", "prove that there are infinitely many irrational numbers", True),
    ],
)
def test_short_questions_are_looked_for_whole(question, text, found):
    assert (against(question).why(text) is not None) == found


def test_short_solutions_are_not_looked_for_and_items_without_long_text_are_named():
    short = item("The answer follows directly from the theorem.", id="9", question=False)
    decontaminator = Decontaminator([short, item("What is 2+2?"), item(QUESTION, id="2")])
    assert decontaminator.why("The answer follows directly from the theorem.") is None
    assert (decontaminator.items, decontaminator.not_searched) == (3, ("exam 9", "exam 1"))


def test_question_thinking_and_summary_are_checked_and_never_joined():
    decontaminator = against(QUESTION)
    words = QUESTION.split()
    assert decontaminator.why("What do you plant?", None, "Nothing.") is None
    assert decontaminator.why("What do you plant?", f"Hm. {QUESTION} I know that one.", "Four.") is not None
    assert decontaminator.why(" ".join(words[:9]), " ".join(words[9:])) is None
    assert decontaminator.why(" ".join(words)) is not None
    overlap = decontaminator.overlap("Say: " + " ".join(words[:12]) + " zebras")
    assert overlap is not None and overlap.words == tuple(split_words(" ".join(words[:12])))  # the whole run


def test_rules_that_cannot_hold_are_refused():
    assert against(QUESTION, rule=Rule(words=13)).why(" ".join(QUESTION.split()[:12])) is None
    for wrong in ({"words": 5}, {"content": 1.5}, {"boilerplate": 1}, {"shortest": 0}):
        with pytest.raises(ValueError, match="needs 1 <= shortest <= words"):
            Rule(**wrong)


def test_nothing_to_compare_with():
    assert Decontaminator([]).why(QUESTION) is None
    assert against("", "!!!").why("", "???") is None
    assert against(QUESTION).overlaps([]) == []


@settings(deadline=None, max_examples=200)
@given(
    texts=st.lists(st.text(min_size=8), min_size=1, max_size=6),
    words=st.lists(st.text(string.ascii_lowercase + "0123456789", min_size=1, max_size=2), min_size=10, max_size=40),
    before=st.text(),
    behind=st.text(),
)
def test_whatever_contains_ten_words_or_more_of_an_evaluation_text_verbatim_is_found(texts, words, before, behind):
    texts = [*texts, " ".join(words)]  # also of numbers and single letters, again and again
    decontaminator = against(*texts)
    for text in texts:
        assert len(split_words(text)) < 10 or decontaminator.why(f"{before} {text} {behind}") is not None


@settings(deadline=None, max_examples=200)
@given(
    evaluation=st.lists(st.lists(st.sampled_from("ab cd ef gh ij 7".split()), max_size=30), min_size=1, max_size=3),
    training=st.lists(st.sampled_from("ab cd ef gh ij 7 zz".split()), max_size=60),
)
def test_without_weights_it_is_the_plain_rule_of_the_paper(evaluation, training):
    """Against a set of tuples: three items are never boilerplate, and texts that are no questions are never looked for whole."""
    rule = Rule(words=4, shortest=4, content=0.0)
    items = [item(" ".join(words), id=str(n), question=False) for n, words in enumerate(evaluation)]
    grams = {tuple(words[k : k + 4]) for words in evaluation for k in range(len(words) - 3)}
    shared = any(tuple(training[k : k + 4]) in grams for k in range(len(training) - 3))
    assert (Decontaminator(items, rule).why(" ".join(training)) is not None) == shared


ROWS = {
    "gsm8k": {"question": QUESTION, "answer": SOLUTION},
    "math": {"problem": QUESTION, "solution": SOLUTION, "answer": "4", "unique_id": "test/algebra/1.json"},
    "messages": {"id": 3, "messages": [{"role": "system", "content": CODE}, {"role": "user", "content": QUESTION},
                                       {"role": "assistant", "content": SOLUTION}]},
    "sharegpt": {"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": SOLUTION}]},
    "alpaca": {"instruction": QUESTION, "input": "", "output": SOLUTION},
    "verl": {"prompt": [{"role": "user", "content": QUESTION}], "reward_model": {"ground_truth": SOLUTION, "style": "rule"}},
}  # fmt: skip


@pytest.mark.parametrize("layout", ROWS)
def test_questions_and_solutions_of_the_usual_layouts_are_read(layout, tmp_path):
    path = tmp_path / "exam.jsonl"
    path.write_text(json.dumps(ROWS[layout]))
    decontaminator = Decontaminator(items_of_file(path))
    assert decontaminator.why(QUESTION) and decontaminator.why(SOLUTION)
    assert decontaminator.why(CODE) is None  # a system message belongs to no item


def test_what_a_row_says_about_its_origin_is_not_read(tmp_path):
    address = "https://example.org/wiki/index.php/2023_exam_problems_of_the_spring_round/problem_number_seven.html"
    path = tmp_path / "exam.jsonl"
    path.write_text(json.dumps({"question": QUESTION, "url": address}))
    assert len(split_words(address)) > 10 and Decontaminator(items_of_file(path)).why(address) is None


@pytest.mark.parametrize("choices", [["a frog", "a heron", "an eel"], {"A": "a frog", "B": "a heron", "C": "an eel"},
                                     {"label": ["A", "B", "C"], "text": ["a frog", "a heron", "an eel"]}])  # fmt: skip
def test_multiple_choice_is_a_question_with_its_options(choices, tmp_path):
    asked = "Which of the following eats fish?"
    path = tmp_path / "exam.jsonl"
    path.write_text(json.dumps({"question": asked, "choices": choices}))
    decontaminator = Decontaminator(items_of_file(path))
    assert decontaminator.why(f"{asked}\nA. a frog\nB. a heron\nC. an eel\nAnswer:") is not None
    assert decontaminator.why(f"{asked} (a) a frog (b) a heron (c) an eel") is not None
    assert decontaminator.why(asked) is None and decontaminator.why(f"{asked} A. a cat B. a dog") is None
    counts = decontaminate_file(path, decontaminator, kept=tmp_path / "kept.jsonl", removed=tmp_path / "removed.jsonl")
    assert counts.removed == 1  # question and options stand in different columns of the training row, too


def test_problems_in_memory():
    columns = {"answer": "4", "verifier": "math", "domain": "math", "language": "en", "source": "world", "licence": "MIT", "split": "test"}
    problems = [
        Problem(id="w/1", prompt=QUESTION, extra={"solution": SOLUTION}, **columns),
        Problem(id="w/2", prompt=(Message(role="system", content=CODE), Message(role="user", content=LATEX)), **columns),
    ]
    decontaminator = Decontaminator(items_of_problems(problems))
    assert "with world w/1 (prompt)" in (decontaminator.why(QUESTION) or "") and "(solution)" in (decontaminator.why(SOLUTION) or "")
    assert "with world w/2 (prompt)" in (decontaminator.why(LATEX) or "") and decontaminator.why(CODE) is None


CLEAN = {"id": "a", "prompt": "What do frogs eat in the long wet winters of the northern hills?", "completion": "Nothing. They sleep."}
DIRTY = {"id": "b", "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "", "reasoning_content": QUESTION}]}


@pytest.mark.parametrize("name", ["train.jsonl", "train.jsonl.gz", "train.json", "train.parquet"])
def test_a_file_is_parted_into_kept_and_removed_rows(name, tmp_path):
    train, kept, removed = tmp_path / name, tmp_path / "out" / "kept.jsonl", tmp_path / "out" / "removed.jsonl"
    rows = [CLEAN, DIRTY, CLEAN | {"id": "c"}]
    lines = "\n".join(map(json.dumps, rows)) + "\n"
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist([{"prompt": None, "completion": None, "messages": None, **row} for row in rows]), train)
    elif name.endswith("gz"):
        train.write_bytes(gzip.compress(lines.encode()))
    else:
        train.write_text(json.dumps(rows) if name.endswith("json") else lines)
    calls = []
    counts = decontaminate_file(train, against(QUESTION), kept=kept, removed=removed, progress=lambda *done: calls.append(done))
    assert (counts.rows, counts.kept, counts.removed, counts.by_source) == (3, 2, 1, {"exam": 1})
    assert calls == [(3, 1)]
    assert [row["id"] for _, row in rows_of(kept)] == ["a", "c"]
    ((_, row),) = rows_of(removed)
    assert row["id"] == "b" and row["messages"][1]["reasoning_content"] == QUESTION
    assert row["rejected"]["rule"] == "decontamination" and row["rejected"]["why"].startswith("shares 18 words with exam 0 (question): ")
    assert sorted(path.name for path in kept.parent.iterdir()) == ["kept.jsonl", "removed.jsonl"]


def test_kept_lines_are_copied_byte_for_byte(tmp_path):
    lines = [b'{"text":  "caf\\u00e9 \\ud83d", "value": 1.50}', '{"text": "카페"}'.encode()]
    (tmp_path / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + lines[0] + b"\r\n\n" + lines[1])  # byte order mark, no last line break
    decontaminate_file(tmp_path / "train.jsonl", against(QUESTION), kept=tmp_path / "k.jsonl", removed=tmp_path / "r.jsonl")
    assert (tmp_path / "k.jsonl").read_bytes() == lines[0] + b"\n" + lines[1] + b"\n"
    assert (tmp_path / "r.jsonl").read_bytes() == b""


def test_a_long_file_is_read_in_pieces(tmp_path):
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps({"text": QUESTION if n % 1000 == 7 else f"row {n}"}) + "\n" for n in range(2500)))
    calls = []
    decontaminate_file(train, against(QUESTION), kept=tmp_path / "k", removed=tmp_path / "r", progress=lambda *done: calls.append(done))
    assert calls == [(1000, 1), (2000, 2), (2500, 3)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n{"text"', r"E102 data: .*train.jsonl:2 is not JSON"),
        (b'{"text": "a"}\n[1]', r"E102 data: .*train.jsonl:2 holds a list"),
        (b'{"text": "\xff"}', r"E101 data: .*train.jsonl:1 is not UTF-8"),
        (b"\n", "holds no rows"),
    ],
)
def test_a_broken_file_leaves_nothing_behind(content, message, tmp_path):
    train = tmp_path / "train.jsonl"
    train.write_bytes(content)
    with pytest.raises(DataError, match=message):
        decontaminate_file(train, against(QUESTION), kept=tmp_path / "k", removed=tmp_path / "r")
    assert [path.name for path in tmp_path.iterdir()] == ["train.jsonl"]
    train.with_suffix(".gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-20])
    with pytest.raises(DataError, match="no whole gzip file"):
        decontaminate_file(train.with_suffix(".gz"), against(QUESTION), kept=tmp_path / "k", removed=tmp_path / "r")
    with pytest.raises(ValueError, match="must be three files"):
        decontaminate_file(train, against(QUESTION), kept=train, removed=tmp_path / "r")


def test_files_without_anything_to_look_for_are_refused(tmp_path):
    path = tmp_path / "exam.jsonl"
    for content, message in (("", "holds no rows"), ('{"id": "a", "url": "b", "n": 3}', "holds no text to look for")):
        path.write_text(content)
        with pytest.raises(DataError, match=message):
            items_of_file(path)


def test_reasons_are_equal_in_every_process(tmp_path):
    row = {"query": QUESTION, "problem": QUESTION, "prompt": QUESTION, "question": QUESTION, "solution": SOLUTION}
    (tmp_path / "exam.jsonl").write_text(json.dumps(row))
    code = (
        "import sys; from pathlib import Path; from zero2r1.tasks.decontamination import *; "
        f"print(Decontaminator(items_of_file(Path(sys.argv[1]))).why({QUESTION!r}))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code, tmp_path / "exam.jsonl"], env=os.environ | {"PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(said) == 1 and "(query)" in said.pop()


TWINS = {20, 406, 1314, 3726, 5162, 7285}
"""Rows of GSM8K's training set that are test problems with other numbers and names, read one by one: 20 is test problem 632."""
STOCK = {
    120, 211, 411, 699, 1263, 1279, 1432, 1458, 1536, 1557, 1558, 1651, 1859, 2049, 2550, 2809, 2879, 2941, 2944, 3210, 3332, 3520, 3554,
    3687, 4044, 4159, 4332, 4715, 4804, 4876, 4920, 4967, 5003, 5181, 5258, 5456, 5815, 5850, 6281, 6297, 6408, 6621, 6673, 6841, 7313,
    7344, 7392,
}  # fmt: skip
"""Rows that share ten words or more with a test item that is another problem, read one by one: stock phrases such as ``substituting
the first equation into the second equation we get``, and a sentence of close relatives (1651, 2550, 5003, 5258). The rule of the
paper removes them; who reads them would keep most."""


@needs_data
def test_ten_thousand_clean_rows_lose_none_and_every_planted_text_of_every_set_is_found():
    """Clean: the other 7,420 rows of GSM8K's training set and 2,580 documents of the laptop corpus.

    70 of these 7,420 rows do share ten words with an evaluation set; read one by one, they are arithmetic (``2 hours 60 minutes
    hour 2 60 120 120 minutes``) or a phrase of four test items (``multiply by 100 to express the answer as a percentage``).
    """
    files = sorted(path for path in DATA.iterdir() if ".json" in path.name and "train" not in path.name)
    assert len(files) >= 11
    items = {path.name: items_of_file(path) for path in files}
    decontaminator = Decontaminator(itertools.chain.from_iterable(items.values()))
    train = [[row["question"], row["answer"]] for _, row in rows_of(DATA / "gsm8k_train.jsonl")]
    removed = {number for number, overlap in enumerate(decontaminator.overlaps(train)) if overlap}
    assert removed == TWINS | STOCK
    made = [[text] for text in itertools.islice(documents(seed=1), 10_000 - len(train) + len(removed))]
    assert len(made) == 2580 and not any(decontaminator.overlaps(made))
    rng = random.Random(1)
    for name, own in items.items():
        texts = [text.text for one in own for text in one.texts if len(split_words(text.text)) >= 10]
        planted = [[" ".join(rng.choice(train)), f"Well. {text.swapcase()} And so on."] for text in rng.sample(texts, min(len(texts), 400))]
        assert all(decontaminator.overlaps(planted)), name

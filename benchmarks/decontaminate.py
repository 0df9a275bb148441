"""Decontaminate rows made here, some of them with an evaluation text inside: are exactly these removed, how fast, in how much memory?

    python benchmarks/decontaminate.py --rows 1000000 --against gsm8k_test.jsonl math500.jsonl

Rows are sentences of the words of the evaluation sets themselves, as often as these use them: the hardest case for the look-up.
Without --against the sets are made here, too. Exits with 1 if a planted text is missed or a clean row is removed.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zero2r1.tasks.decontamination import Decontaminator, EvaluationItem, EvaluationText, decontaminate_file, items_of_file
from zero2r1.tasks.ngrams import split_words

SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]


def made_up_items(count: int, random: np.random.Generator) -> list[EvaluationItem]:
    """Questions of 40 words that no language has, with a solution of 100."""
    words = np.array(["".join(row) for row in random.choice(SYLLABLES, size=(20_000, 3))])
    items = []
    for number, row in enumerate(random.choice(words, size=(count, 140))):
        question, solution = " ".join(row[:40]), " ".join(row[40:])
        texts = (
            EvaluationText(column="question", text=question, question=True),
            EvaluationText(column="answer", text=solution, question=False),
        )
        items.append(EvaluationItem(source="made_up", id=str(number), texts=texts))
    return items


def write_rows(path: Path, items: Sequence[EvaluationItem], arguments: argparse.Namespace, random: np.random.Generator) -> set[int]:
    """Rows ``{"id", "question", "response"}``; returns the numbers of those that hold an evaluation text."""
    long_texts = [text.text for item in items for text in item.texts if len(split_words(text.text)) >= 10]
    counted = Counter(word for item in items for text in item.texts for word in split_words(text.text))
    words, shares = np.array(list(counted)), np.array(list(counted.values())) / counted.total()
    planted = set(random.choice(arguments.rows, size=arguments.planted, replace=False).tolist())
    rewrites = (str.upper, lambda text: text.replace(" ", "\n"), lambda text: f"{text}!", lambda text: text.replace(" ", " , "))
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, arguments.rows, 1000):
            drawn = random.choice(words, size=(1000, arguments.words), p=shares)
            for number, row in enumerate(drawn[: arguments.rows - start], start=start):
                question, response = " ".join(row[: arguments.words // 2]), " ".join(row[arguments.words // 2 :])
                if number in planted:
                    text = long_texts[int(random.integers(len(long_texts)))]
                    response += f" {rewrites[number % len(rewrites)](text)} and so on"
                file.write(json.dumps({"id": number, "question": f"{question}?", "response": response}, ensure_ascii=False) + "\n")
    return planted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--words", type=int, default=40, help="words a row")
    parser.add_argument("--planted", type=int, default=1000)
    parser.add_argument("--items", type=int, default=10_000, help="evaluation items made up where --against names no file")
    parser.add_argument("--against", type=Path, nargs="*", default=[], help="evaluation files")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random = np.random.default_rng(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        train, kept, removed = (Path(folder) / f"{name}.jsonl" for name in ("train", "kept", "removed"))
        clock = time.perf_counter()
        items = [item for path in arguments.against for item in items_of_file(path)] or made_up_items(arguments.items, random)
        decontaminator = Decontaminator(items)
        index_seconds = time.perf_counter() - clock
        planted = write_rows(train, items, arguments, random)
        clock = time.perf_counter()
        counts = decontaminate_file(train, decontaminator, kept=kept, removed=removed)
        seconds = time.perf_counter() - clock
        with removed.open(encoding="utf-8") as file:
            found = {json.loads(line)["id"] for line in file}
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{decontaminator.items} evaluation items read and indexed in {index_seconds:.1f} s")
    print(f"{counts.rows} rows of {arguments.words} words in {seconds:.1f} s ({counts.rows / seconds:,.0f}/s), peak {megabytes:,.0f} MiB")
    print(f"planted {len(planted)}, found {len(found & planted)}, missed {len(planted - found)}, clean rows removed {len(found - planted)}")
    return 0 if found == planted else 1


if __name__ == "__main__":
    sys.exit(main())

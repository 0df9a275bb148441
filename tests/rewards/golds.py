"""Reference answers of real data sets, where they are at hand, and rewrites of them that keep or break equality."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

DATA = Path(__file__).parents[3] / "shared" / "data"
FILES = {
    "math500": "math500.jsonl",
    "aime24": "aime24.jsonl",
    "amc23": "amc23.jsonl",
    "gsm8k": "gsm8k_test.jsonl",
    "mgsm_zh": "mgsm_zh.jsonl",
}
NAMES = ("apples", "dollars", "km", "students", "\\text{ cm}", "\\text{ hours}", "pages", "m^2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """One reference: ``answer`` as a column holds it, ``solution`` the text it stands in, if there is one."""

    source: str
    answer: str
    solution: str | None
    question: str = ""


def golds(name: str) -> list[Gold]:
    """All references of one data set."""
    rows = [json.loads(line) for line in (DATA / FILES[name]).read_text(encoding="utf-8").splitlines()]
    if name == "gsm8k":
        return [Gold(source=name, answer=row["answer"].rsplit("####", 1)[1].strip(), solution=row["answer"]) for row in rows]
    if name == "mgsm_zh":
        return [Gold(source=name, answer=str(row["answer"]), solution=None) for row in rows]
    return [Gold(source=name, answer=str(row["answer"]), solution=row.get("solution"), question=row["problem"]) for row in rows]


def rewrites(gold: str, random_: random.Random, count: int) -> Iterator[tuple[str, bool]]:
    """``count`` rewrites, each with whether it still equals the reference; half of them do."""
    number = re.fullmatch(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?", gold)
    fraction = re.fullmatch(r"(-?)\\d?frac\{(\d+)\}\{(\d+)\}", gold)
    for k in range(count):
        keep = k % 2 == 0
        if number:
            text = (_kept_number if keep else _broken_number)(Fraction(gold.replace(",", "")), gold.replace(",", ""), random_)
        elif fraction:
            value = Fraction(int(fraction[2]), int(fraction[3])) * (-1 if fraction[1] else 1)
            text = (_kept_fraction if keep else _broken_fraction)(value, random_)
        else:
            text = (_kept_text if keep else _broken_text)(gold, random_)
        yield (
            (random_.choice(["{}", "${}$", "{}.", "**{}**", " {} ", "\\({}\\)", "\\[ {} \\]"]).format(text) if "$" not in text else text),
            keep,
        )


def _kept_number(value: Fraction, text: str, random_: random.Random) -> str:
    whole = value.denominator == 1
    ways = [text, f"x = {text}", f"The answer is {text}", f"\\text{{The answer is }} {text}", f"{text} {random_.choice(NAMES)}",
            text.translate(str.maketrans("0123456789-", "０１２３４５６７８９\u2212")), f"\\text{{{text}}}"]  # fmt: skip
    if whole:
        n = int(value)
        ways += [
            f"{n:,}",
            f"{n}.0",
            f"{n}.00",
            f"{n:,}".replace(",", "{,}"),
            f"{n:,}".replace(",", ",\\!"),
            f"{n} \\text{{ units}}",
            f"n={n}",
        ]
        ways += [f"\\${n:,}", f"{n} dollars", f"{n}个", f"{n}개", f"{n}美元"] if n >= 0 else []
        ways += [f"{n}e0"] + ([f"{n // 10}e1", f"{n // 10} \\times 10"[:0] or f"{n // 10} \\times 10^{{1}}"] if n % 10 == 0 and n else [])
    else:
        ways += [f"{value.numerator}/{value.denominator}", f"\\frac{{{value.numerator}}}{{{value.denominator}}}", text + "0"]
    return random_.choice(ways)


def _broken_number(value: Fraction, text: str, random_: random.Random) -> str:
    n, other = int(value), int(value) + random_.choice([1, 2, 7, 10])
    ways = [f"{value + 1}", f"-{text}" if not text.startswith("-") else text[1:], f"{text}, {other}", f"{text} or {other}", f"{text}+0",
            f"{n - 3} + {value - n + 3}", f"\\pm {text}", f"{text} = {text}", f"3 = {text}", f"{text}.5" if "." not in text else text + "5",
            f"{text}%", f"{n - 1} < x < {n + 1}", f"\\frac{{{value.numerator * 2}}}{{2}}" if value.denominator == 1 else f"{value + 2}",
            f"{text} million", f"about {text}", f"not {text}", f"{n - 1}-{n + 1}", f"{text} \\times 10", f"\\sqrt{{{value * value}}}",
            f"{text}x",
            f"[{n - 1}, {n + 1}]", f"{text} \\text{{ or }} {other}", f"{text}e1", f"{text}^2", f"({text}, {other})", "", "\\frac{}{}",
            f"{text}!"]  # fmt: skip
    found = random_.choice(ways)
    unchanged = {"-0", "0%", "0 million", "0 \\times 10", "0e1", "0^2", "1^2", "1!"}  # equal to the reference after all
    return found if found not in unchanged else f"{other}"


def _kept_fraction(value: Fraction, random_: random.Random) -> str:
    top, bottom, k = value.numerator, value.denominator, random_.choice([2, 3, 7])
    ways = [f"\\frac{{{top}}}{{{bottom}}}", f"\\dfrac{{{top}}}{{{bottom}}}", f"{top}/{bottom}", f"x=\\frac{{{top}}}{{{bottom}}}",
            f"\\tfrac{{{top}}}{{{bottom}}}",
            f"\\frac{{{top * k}}}{{{bottom * k}}}", f"\\frac{{{-top}}}{{{-bottom}}}",
            f"\\left(\\frac{{{top}}}{{{bottom}}}\\right)"]  # fmt: skip
    if 10**6 % bottom == 0:
        ways.append(format(float(value), ".6f").rstrip("0"))
    if value > 1:
        ways.append(f"{top // bottom}\\frac{{{top % bottom}}}{{{bottom}}}")
        ways.append(f"{top // bottom} {top % bottom}/{bottom}")
    return random_.choice(ways)


def _broken_fraction(value: Fraction, random_: random.Random) -> str:
    top, bottom = value.numerator, value.denominator
    ways = [f"\\frac{{{top + 1}}}{{{bottom}}}", f"\\frac{{{top}}}{{{bottom + 1}}}", f"{-value}", f"{top}", f"{top}, {bottom}",
            f"{top}:{bottom}",
            f"\\frac{{{top}}}{{{bottom}}} + 0",
            f"{top} \\cdot \\frac{{1}}{{{bottom}}}", f"{float(value) + 1e-9:.12f}",
            f"{top}/{bottom} or 1",
            f"1 - {1 - value}", f"({top}, {bottom})", f"\\frac{{{top}}}{{{bottom}}}, \\frac{{{bottom}}}{{{top}}}",
            f"\\frac{{{top}}}{{{bottom}}}^2"]  # fmt: skip
    if value not in (1, -1):
        ways.append(f"\\frac{{{bottom}}}{{{top}}}")
    return random_.choice(ways)


def _kept_text(gold: str, random_: random.Random) -> str:
    ways = [gold, gold.replace("\\frac", "\\dfrac"),
            gold.replace("(", "\\left(").replace(")", "\\right)") if "\\left" not in gold else gold,
            gold.replace(" ", ""), gold.replace("+", " + "), f"\\boxed{{{gold}}}", gold.replace("{", "{ ").replace("}",
            " }") if "begin" not in gold else gold, gold.replace("\\pi", "π")]  # fmt: skip
    if "=" not in gold and "\\in" not in gold and "\\text" not in gold and "," not in gold:
        ways += [f"y = {gold}" if "y" not in gold else gold, f"f(x) = {gold}" if "f" not in gold else gold]
    return random_.choice(ways if "\\text" not in gold and "\\mbox" not in gold else ways[:2])


def _broken_text(gold: str, random_: random.Random) -> str:
    digits = [match.start() for match in re.finditer(r"\d", gold)]
    if digits and random_.random() < 0.7:
        at = random_.choice(digits)
        return gold[:at] + str((int(gold[at]) + random_.choice([1, 2, 3])) % 10 or 4) + gold[at + 1 :]
    return random_.choice(
        [f"{gold} or 7", "7", f"{gold}, 7", f"not {gold}", "\\frac{1", f"2({gold})" if "text" not in gold else "other", ""]
    )

"""Which responses are pleasant to read: the filters of rejection sampling (paper, section 2.3.3).

The paper drops chains of thought "with mixed languages, long paragraphs, and code blocks"; repetition stands beside them in its
cold-start recipe (supplement B.3.2). Each is one function in :data:`RULES` and gives its reason in words. Only the thinking is
held to paragraphs without code: code belongs into the summary.

The rules are heuristics for keeping training data, where losing a good text is cheap and keeping a bad one is not dear either.
They were not made to be optimised against: as a reward they would be learnt around.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from zero2r1.rewards.config import ReadabilitySettings
from zero2r1.rewards.language import SCRIPTS, language_code, script_share
from zero2r1.rewards.language import language_share as language_verdict
from zero2r1.rewards.length import repetition
from zero2r1.template import parse_response, visible_part

LanguageShare = Callable[[str, str], float | None]
"""(text, language) -> share of the text's words that are in the language; ``None`` for a text without words."""
Rule = Callable[[str, str, str, ReadabilitySettings, LanguageShare], str | None]
"""(thinking, summary, language, settings, language_share) -> why this is no pleasant reading, or ``None``."""

MALFORMED = "malformed"
"""The rule that a response breaks which has no thinking and summary to be read."""

_UNSPACED = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_UNSPACED_ABUGIDA = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
"""Thai, Lao, Burmese, Khmer: no spaces either, but letters, about four of them a word."""
_CHARACTER = re.compile(f"[{_UNSPACED}]")
_LETTERS = re.compile(f"[{_UNSPACED_ABUGIDA}]+")
_WORD_OF_LETTERS = re.compile(rf"[{_UNSPACED}]|[^\W\d_{_UNSPACED}]{{2,}}")
_PIECE = re.compile(rf"[{_UNSPACED}]|[^\W\d_{_UNSPACED}]+|\S")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*|\n+")
_EMPTY_TAGS = re.compile(r"</?(?:think|answer)>")

_FENCE = re.compile(r"^[ \t>]*(?:[-*+][ \t]+|\d+[.)][ \t]+)?(?:`{3,}[^`\n]*|~{3,}[ \t]*[\w+#-]*[ \t]*)$", re.MULTILINE)
_FENCED_BLOCK = re.compile(r"^[ \t]*(```|~~~)[\s\S]*?(?:^[ \t]*\1|\Z)", re.MULTILINE)
_FENCE_BEHIND_TEXT = re.compile(r"```[\w+#-]*[ \t]*\n[\s\S]*?```")
_CODE_LINE = re.compile(
    "|".join(
        (
            # Python
            r"(?:async )?def \w+\(.*\).*:",
            r"class [A-Z]\w+(?:\([\w., ]*\))?:",
            r"(?:if|elif) .*(?:[=!]=|[%\[.]|\w{2,}\(|\b(?:not|is None|in)\b).*:",  # "if x > 3:" may head a case of a proof
            r"while (?:.*[<>=!%\[(.].*|True|1|not .*):",
            r"for \w+(?:, ?\w+)* in [A-Za-z_][\w.]*(?:\(.*\))?:",  # "for x in [0, 1]:" may, too
            r"(?:else|try|finally|except(?: [\w.]+(?: as \w+)?)?):",
            r"(?:from [\w.]+ )?import [\w.]+(?: as \w+)?(?:, ?\w+)*;?",
            r"assert .*[=!<>]=.*|pass|>>> .*",
            r"\w+ = (?:\[.* for .* in .*\]|(?:len|range|int|str|list|dict|set|sorted|input|map|open)\(.*\)|\[\]|\"[^\"]*\"|'[^']*')",
            # several languages
            r"(?:print|println|printf|console\.log|System\.out\.\w+)\(.*\);?",
            r"(?:\w+(?:, ?\w+)* = )?[A-Za-z_]\w*\.[A-Za-z_]\w+\(.*\);?",
            r"\w+(?:\.\w+|\[[^\]]*\])*\s*(?:\+|-|\*|//|%|<<|>>|\|)=(?!=)\s*\S.*",
            r"return .*;|(?:break|continue);?",
            # C, C++, Java, JavaScript, Rust, Go
            r"#include\b.*|using namespace \w+;|package [\w.]+;?|(?:std::)?(?:cout|cin) ?[<>]{2}.*",
            r"(?:public|private|protected|static)\b.*[;{]",
            r"(?:const|let|var) \w+.*=.*;|(?:function|func|fn|class|struct)\b.*\{",
            r"(?:unsigned |const )?(?:int|long|float|double|char|bool|void|string|auto|(?:std::)?vector<.*>)[*&]* \w+.*[;{]",
            r"(?:\} ?)?(?:for|while|if|else if|switch) ?\(.*\) ?\{|\}? ?else ?\{|for ?\(.*;.*;.*\).*",
            # SQL, HTML
            r"(?:SELECT|INSERT INTO|UPDATE|DELETE FROM|CREATE TABLE|FROM|WHERE|GROUP BY|ORDER BY) .*",
            r"</?(?:html|head|body|div|span|p|ul|ol|li|table|tr|td|th|form|input|button|script|style|a|img|h[1-6])\b[^<>]*>.*",
        )
    )
)
"""What can be nothing but a line of a program. Assignments and calls that may be formulas are missing on purpose."""
_INDENTED_RETURN = re.compile(r"\s+return\b")
_COMMENT_OR_ASSIGNMENT = re.compile(r"#|//|/\*|\*/|--|[\w.\[\]]+ ?=(?!=)")
_LATEX = re.compile(r"\\[A-Za-z]{2,}|\\\\|\$.*\$")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'|#.*|//.*")
_PROSE = re.compile(r"[^\W\d_]{2,}(?:[ ,]+[^\W\d_]{2,}){2}|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]|^(?:[-*+]|\d+[.)])\s")
"""Three words side by side, a character that no program is written in, or an item of a list."""
_FORMULA = re.compile(
    r"\$\$.{1,2000}?\$\$|\$[^$\n]{1,500}\$|\\\[.{1,2000}?\\\]|\\\(.{1,500}?\\\)|\\begin\{([a-z]{1,20}\*?)\}.{1,4000}?\\end\{\1\}", re.DOTALL
)
_LONGEST_LINE = 500
_LONGEST_PERIOD = 3


def share_in_language(text: str, language: str) -> float | None:
    """:func:`zero2r1.rewards.language.language_share` as a number; by script alone for a language that is not known to it."""
    try:
        verdict = language_verdict(text, language)
    except ValueError:
        return script_share(text, language)
    return verdict.share if verdict.words else None


def unreadable(
    thinking: str,
    summary: str,
    language: str,
    settings: ReadabilitySettings,
    *,
    language_share: LanguageShare = share_in_language,
) -> dict[str, str]:
    """Every rule that a response breaks, in the order of :data:`RULES`, with the reason; empty for a readable one. Never fails on a text.

    Args:
        language: what the response should be in; ``""`` where nobody knows, and then no language is wrong.
    """
    reasons = {name: rule(thinking, summary, language, settings, language_share) for name, rule in RULES.items()}
    return {name: why for name, why in reasons.items() if why is not None}


def readable(
    thinking: str, summary: str, language: str, settings: ReadabilitySettings, *, language_share: LanguageShare = share_in_language
) -> bool:
    """Whether no rule is broken."""
    return not unreadable(thinking, summary, language, settings, language_share=language_share)


def unreadable_response(
    text: str,
    language: str,
    settings: ReadabilitySettings,
    *,
    think_open: bool = False,
    language_share: LanguageShare = share_in_language,
) -> dict[str, str]:
    """:func:`unreadable` of a raw output; one without a thinking and a summary breaks the rule ``malformed`` alone.

    The share of a checkpoint's outputs for which this is empty is the metric "readable".
    """
    fault = malformed(text, think_open=think_open)
    if fault is not None:
        return {MALFORMED: fault}
    parsed = parse_response(text, think_open=think_open)
    return unreadable(parsed.thinking or "", parsed.summary, language, settings, language_share=language_share)


def malformed(text: str, *, think_open: bool = False) -> str | None:
    """Why an output is not one thinking that says something and then a summary that says something; ``None`` if it is.

    Answer tags are the business of the format reward and ignored here.
    """
    if visible_part(text, think_open=think_open) is None:
        return "the thinking is not closed"
    parsed = parse_response(text, think_open=think_open)
    if parsed.thinking is None:
        return "there is no thinking"
    opened, closed = text.count("<think>") + think_open, text.count("</think>")
    if (opened, closed) != (1, 1):
        return f"{opened} opening and {closed} closing think tags instead of one each"
    if not think_open and text.partition("<think>")[0].strip():
        return "text stands before the thinking"
    for name, part in (("thinking", parsed.thinking), ("summary", parsed.summary)):
        if not any(character.isalnum() for character in _EMPTY_TAGS.sub("", part)):
            return f"the {name} is empty"
    return None


def mixed_language(thinking: str, summary: str, language: str, settings: ReadabilitySettings, language_share: LanguageShare) -> str | None:
    """Too few words in the language, over thinking and summary together, or a whole sentence of words in another one.

    A text without words (formulas, numbers) is in every language, and comments inside a fenced block are no sentences.
    """
    if not language:
        return None
    share = language_share(f"{thinking}\n{summary}", language)
    least = _least_share(language, settings)
    if share is not None and share < least:
        return f"{share:.0%} of the words are in the language {language!r}, at least {least:.0%} wanted"
    if share is None or share == 1:
        return None
    for sentence in _sentences(_FENCED_BLOCK.sub("", f"{thinking}\n{summary}")):
        if len(_WORD_OF_LETTERS.findall(sentence)) >= settings.foreign_sentence_words:
            part = language_share(sentence, language)
            if part is not None and part < 0.5:
                return f"a sentence in another language than {language!r}: {sentence[:60]!r}"
    return None


def long_paragraph(thinking: str, summary: str, language: str, settings: ReadabilitySettings, language_share: LanguageShare) -> str | None:
    """A paragraph of the thinking beyond the limit: words between spaces (formulas and numbers too), Han and kana by character.

    In a paragraph of both, each kind uses up its part of the limit. Four letters of Thai, Lao, Burmese or Khmer count as a word.
    """
    for paragraph in _paragraphs(thinking, line_breaks=settings.line_breaks_end_paragraphs):
        characters = len(_CHARACTER.findall(paragraph))
        letters = sum(len(run) for run in _LETTERS.findall(paragraph))
        spaced = _LETTERS.sub(" ", _CHARACTER.sub(" ", paragraph))
        words = sum(any(character.isalnum() for character in word) for word in spaced.split()) + -(-letters // 4)
        if words / settings.paragraph_words + characters / settings.paragraph_characters > 1:
            length = " and ".join([f"{words} words"] * (words > 0) + [f"{characters} characters"] * (characters > 0))
            allowed = f"{settings.paragraph_words} words or {settings.paragraph_characters} characters"
            return f"a paragraph of {length} ({allowed} allowed): {paragraph[:60]!r}"
    return None


def code_in_thinking(
    thinking: str, summary: str, language: str, settings: ReadabilitySettings, language_share: LanguageShare
) -> str | None:
    """A fenced block in the thinking, or lines that are code and nothing else with no line of prose between them.

    Neither formulas (``x = 3``, ``f(2) = 5``, LaTeX), nor lists, nor code inside a sentence are code lines.
    """
    fence = _FENCE.search(thinking) or _FENCE_BEHIND_TEXT.search(thinking)
    if fence is not None:
        return f"a fenced block: {fence.group().strip()[:60]!r}"
    run: list[str] = []
    for line in thinking.splitlines():
        if _is_code(line):
            run.append(line.strip())
            if len(run) >= settings.code_lines:
                return f"{len(run)} lines of code: {' / '.join(run)[:80]!r}"
        elif _is_prose(line):
            run = []
    return None


def repeated(thinking: str, summary: str, language: str, settings: ReadabilitySettings, language_share: LanguageShare) -> str | None:
    """Thinking or summary that says again what it said: long n-grams that return, or the same sentences or word in a row.

    Each part by itself: a summary repeats the end of the thinking, as it should. LaTeX counts for no n-gram, because every step of a
    derivation writes most of its formula again, but for the sentences in a row.
    """
    for name, part in (("thinking", thinking), ("summary", summary)):
        share = -repetition(_FORMULA.sub(" ", part), n=settings.repetition_n)
        if share > settings.repetition_share:
            return f"{share:.0%} of the {settings.repetition_n}-grams of the {name} were written before"
        sentences = [" ".join(sentence.casefold().split()) for sentence in _sentences(part)]
        loop = _loop(sentences, settings.loop_sentences, longest_period=_LONGEST_PERIOD)
        loop = loop or _loop(_PIECE.findall(part.casefold()), settings.loop_words, longest_period=1)
        if loop is not None:
            return f"the {name} goes round in a loop: {loop[:60]!r}"
    return None


RULES: Mapping[str, Rule] = {
    "mixed_language": mixed_language,
    "long_paragraph": long_paragraph,
    "code_in_thinking": code_in_thinking,
    "repetition": repeated,
}
"""By name, in the order in which they are reported."""


def _least_share(language: str, settings: ReadabilitySettings) -> float:
    """Languages with a script of their own have room for technical terms in Latin letters."""
    try:
        own_script = language_code(language) in SCRIPTS
    except ValueError:
        own_script = False
    return min(settings.language_share, settings.language_share_beside_latin) if own_script else settings.language_share


def _sentences(text: str) -> list[str]:
    return [sentence for sentence in _SENTENCE_END.split(text) if sentence.strip()]


def _paragraphs(text: str, *, line_breaks: bool) -> Iterator[str]:
    yield from (part.strip() for part in re.split(r"\n" if line_breaks else r"\n[ \t]*\n", text) if part.strip())


def _is_code(line: str) -> bool:
    if len(line) > _LONGEST_LINE or _LATEX.search(_QUOTED.sub("", line)):
        return False
    return _CODE_LINE.fullmatch(line.strip()) is not None or _INDENTED_RETURN.match(line) is not None


def _is_prose(line: str) -> bool:
    stripped = line.strip()
    return not _COMMENT_OR_ASSIGNMENT.match(stripped) and _PROSE.search(_QUOTED.sub(" ", stripped)) is not None


def _loop(units: Sequence[str], times: int, *, longest_period: int) -> str | None:
    """The units that stand ``times`` in a row, one or a few together; punctuation and digits are not a loop by themselves."""
    for period in range(1, longest_period + 1):
        same = 0
        for index in range(period, len(units)):
            same = same + 1 if units[index] == units[index - period] else 0
            if same >= period * (times - 1):
                found = " ".join(units[index - period + 1 : index + 1])
                if any(character.isalpha() for character in found):
                    return found
    return None

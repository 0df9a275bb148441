r"""The words of a text by the script they are written in, without what belongs to no language.

What is a word: one Han or kana character; one run of letters of any other script (a Hangul run, a Latin run, ...); for Thai,
which writes no spaces, three letters, rounded up in every run. A run too long to be one word counts as several.

What is no word, in any language: digits, formulas, code, addresses, tags, single letters (variables), short labels beside an
operator (``AB = AC``), function names and units (``sin``, ``cm``). Neutral material is no place to hide: plain sentences inside
of it are text, ``\text{...}`` always is, and when the names in formulas, inline code, tags, addresses and identifiers are many
beside the words of the text, they are words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

# A text is read through its shape: a string of the same length with one letter for the kind of every character.
_KINDS = {
    "LATIN": "L", "CYRILLIC": "C", "GREEK": "G", "ARABIC": "A", "DEVANAGARI": "D", "HANGUL": "H", "HEBREW": "B", "THAI": "T",
    "CJK": "Z", "IDEOGRAPHIC": "Z", "HIRAGANA": "K", "KATAKANA": "K", "MODIFIER": "m",
}  # fmt: skip
_SCRIPT = {kind: name for name, kind in _KINDS.items()} | {"Z": "HAN", "K": "KANA", "O": "OTHER", "X": "MIXED"}
_PILED_UP = re.compile(r"[^\w\s\x00-\x7f]{33,}")
"""Marks upon marks: no letters, and normalisation takes quadratic time to put them in order."""
_DISGUISES = ("REGIONAL INDICATOR", "NEGATIVE CIRCLED LATIN", "NEGATIVE SQUARED LATIN", "BRAILLE PATTERN")
"""Symbols that can spell words and that normalisation does not turn into letters."""
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\U000e0000-\U000e0fff]"
)
_TOKENS = re.compile(r"s|\.(?![L0])|[LCG](?:[LCGm]+|'(?=[LCG]))*|A[Am]*|D[Dm]*|H[Hm]*|B(?:[Bm]+|'(?=B))*|O[Om]*|Z[Zm]*|K[Km]*|T[Tm]*")
_SPELLED_OUT = re.compile(r"(?<![LCGADBm])([LCGADB])(?:[ .s-]{1,4}\1){4,}(?![LCGADBm])")
"""``t h e a n s w e r``: single letters are variables, but not five of them side by side."""
_WORD = r"(?:[LCGADBO][LCGADBOm']+|H[Hm]*)"
_ROW = re.compile(rf"(?<![LCGADBOHm'])(?:{_WORD}[ .]{{1,3}}){{2,}}{_WORD}|[ZKTm]{{5,}}")
"""Three words side by side, or as much without spaces: neither a formula nor a call reads like this."""
_ONE_LETTER_WORDS = {"L": "aAIyYeEoO", "C": "авикосуяжбйєізАВИКОСУЯ", "G": "οηόήΟΗ", "A": "و", "B": ""}
_LABEL = 4
_LONGEST_HANGUL, _LONGEST = 12, 30
_NAMES_ALLOWED = 8
"""So many different names, or half as many as there are words, may stand in a text before they count as words themselves."""

NEUTRAL_NAMES = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp sqrt mod gcd lcm lim max min cm mm km kg mg ml khz "
    "hz".split()
)
"""Function names and units: every language writes them so."""
_KEYWORDS = frozenset(
    "and as assert break class def elif else except false for from if import in is lambda none not or raise return true try while "
    "with".split()
)
_LATEX_COMMANDS = frozenset(
    "frac dfrac tfrac cfrac sqrt times cdot cdots ldots dots vdots ddots div pm mp le leq leqslant ge geq geqslant ne neq lt gt "
    "approx equiv sim simeq cong propto infty sum prod int iint oint lim limsup liminf sup inf max min gcd lcm det dim ker deg arg "
    "log ln lg exp sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh mod bmod pmod left right big Big bigg Bigg bigl bigr "
    "Bigl Bigr middle boxed text textbf textit textrm texttt mathrm mathbf mathbb mathcal mathsf mathit mathfrak boldsymbol "
    "operatorname mbox begin end hline quad qquad hspace vspace in notin ni subset subseteq supset supseteq cup cap bigcup bigcap "
    "setminus emptyset varnothing forall exists nexists neg lnot land lor wedge vee oplus otimes to gets rightarrow leftarrow "
    "leftrightarrow Rightarrow Leftarrow Leftrightarrow implies iff mapsto longrightarrow uparrow downarrow overline underline "
    "overbrace underbrace hat bar vec tilde dot ddot widehat widetilde overrightarrow angle triangle perp parallel mid nmid circ "
    "degree bullet star ast prime partial nabla ell hbar Re Im binom dbinom tbinom choose lfloor rfloor lceil rceil langle rangle "
    "lvert rvert vert Vert stackrel overset underset limits displaystyle textstyle therefore because square tag label alpha beta "
    "gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi varphi chi psi "
    "omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega".split()
)
_SPAN = re.compile(  # every alternative begins with a plain character: the scan is several times faster for it
    r"```|~~~|``?"
    r"|\$\$?|\\\[|\\\(|\\begin\{[A-Za-z]{1,20}\*?\}|\\\$|\\[A-Za-z]+"
    r"|https?://[!-~]+|www\.[!-~]+|@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+"
    r"|<[/A-Za-z][A-Za-z0-9:_-]{0,30}(?:\s[^<>=]{0,40}=[^<>]{0,160})?\s?/?>|<\|[^<>|]{1,40}\|>|&[A-Za-z]{2,8};"
)
_LONGEST_SPAN = 4000
_CLOSERS = {"\\[": "\\]", "\\(": "\\)"}
_MAILBOX = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-"
_SPACE_IN_FORMULA = re.compile(r"\\[ ,;:!]|~|\\q?quad(?![a-zA-Z])")
_TEXT_IN_FORMULA = re.compile(r"\\(?:text(?:bf|it|rm|sf|normal)?|mbox)\s*\{([^{}]*)\}")
_COMMAND = re.compile(r"\\(?:begin|end)\{[^{}]{0,30}\}|\\([A-Za-z]+)")
_HUMP = re.compile(r"[a-z](?=[A-Z])")


class Word(NamedTuple):
    """One run of letters. It counts as ``weight`` words and stands in the clause of that number, from 0."""

    script: str
    text: str
    weight: int
    clause: int


class _Shapes(dict[int, str]):
    """Code point -> the letter of its kind, filled as characters turn up: looking up a name each time would be slow."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category, name = unicodedata.category(character), unicodedata.name(character, "")
        if category[0] == "L" or category == "Nl" or name.startswith(_DISGUISES):
            kind = _KINDS.get(re.split("[ -]", name)[0], "O")
        elif character in ".,:":
            kind = "."
        elif character in "\n!?;。、؟،؛।॥":
            kind = "s"
        elif character in "'\u2019":
            kind = "'"
        elif character in "^°△" or (category == "Sm" and character not in "|~"):
            kind = "="
        else:
            kind = {"M": "m", "N": "0"}.get(category[0], " " if character.isspace() else "-")
        self[code] = kind
        return kind


_SHAPES = _Shapes()


def words_of(text: str) -> list[Word]:
    """The words of a text in their order, then what was spelled out letter by letter, then names where they are too many.

    Letters that normalisation makes equal are equal (full-width, mathematical), and invisible characters are not there. A word
    of letters of several scripts that look alike has the script ``MIXED``, one of a script no target is written in ``OTHER``.
    Linear in the length of the text, whatever is left unclosed in it. Never raises.
    """
    short = _PILED_UP.sub(lambda pile: pile[0][:32], text)
    shown, hidden = _layers(_INVISIBLE.sub("", unicodedata.normalize("NFKC", short)))
    words, names = _words_and_names(shown)
    names += [word for found in _words_and_names(hidden) for word in found]
    different = {name.text.casefold(): name.weight for name in names}
    if sum(different.values()) > max(_NAMES_ALLOWED, sum(word.weight for word in words) // 2):
        behind = words[-1].clause + 1 if words else 0
        words += [name._replace(clause=name.clause + behind) for name in names]
    return words


def says_something(text: str) -> bool:
    """Whether there is a letter or a digit in a text besides its tags."""
    return any(character.isalnum() for character in re.sub(r"</?[A-Za-z][^<>]{0,40}>", "", _INVISIBLE.sub("", text)))


def _words_and_names(text: str) -> tuple[list[Word], list[Word]]:
    shape = text.translate(_SHAPES)
    marked = "m" in shape
    words: list[Word] = []
    names: list[Word] = []
    clause = 0
    for match in _TOKENS.finditer(shape):
        start, end = match.span()
        kind = shape[start]
        if kind in ".s":
            clause += 1
            continue
        run = text[start:end]
        letters = end - start - (shape.count("m", start, end) if marked else 0)
        if kind in "ZKT":
            words.append(Word(_SCRIPT[kind], run, -(-letters // 3) if kind == "T" else letters, clause))
            continue
        if kind in "LCGAB":
            kind = _kind_of_run(run, text, shape, start) if letters > 1 else _kind_of_letter(run[0], shape, start)
            if not kind:
                continue
        longest = _LONGEST_HANGUL if kind == "H" else _LONGEST
        count = 1 if letters <= longest else letters * 5 // longest
        if kind == "N":
            names.append(Word("LATIN", run, count + len(_HUMP.findall(run)), clause))
        else:
            words.append(Word(_SCRIPT[kind], run, count, clause))
    for match in _SPELLED_OUT.finditer(shape):
        if "," in text[match.start() : match.end()]:  # a list of variables
            continue
        letters = shape.count(match[1], match.start(), match.end())
        words.append(Word(_SCRIPT[match[1]], text[match.start() : match.end()], -(-letters // 5), clause + 1))
    return words, names


def _kind_of_run(run: str, text: str, shape: str, start: int) -> str:
    """The kind of a run of letters: empty for a label or a neutral name, ``N`` for an identifier."""
    kind, own = shape[start], shape[start : start + len(run)]
    if own != kind * len(run) and len(set(own) - {"m", "'"}) > 1:
        parts = [run[part.start() : part.end()] for part in re.finditer(r"L[Lm']*|C[Cm']*|G[Gm']*", own)]
        named = (len(part) == 1 or part.lower() in NEUTRAL_NAMES or (part.isupper() and len(part) <= _LABEL) for part in parts)
        return "" if all(named) else "X"
    if kind != "L":
        return kind
    if len(run) <= 6 and (run.lower() in NEUTRAL_NAMES or (len(run) <= _LABEL and _is_label(run, shape, start))):
        return ""
    return "N" if _is_identifier(run, text, start) else kind


def _is_label(run: str, shape: str, start: int) -> bool:
    """``AB`` in ``AB = CD``, ``xy`` in ``xy=6``, ``nd`` in ``2nd``: short, and beside an operator or a digit."""
    end = start + len(run)
    before, after = shape[start - 1 : start], shape[end : end + 1]
    if len(run) <= 2 and (before in ("=", "0") or after in ("=", "0")):
        return True
    if not run.isupper():
        return False
    return "=" in (before, after) or shape[max(0, start - 2) : start] == "= " or shape[end : end + 2] == " ="


def _kind_of_letter(letter: str, shape: str, at: int) -> str:
    """The kind of a word of one letter, as the ``a`` of ``a number``; empty for a variable, as the one of ``a + 1``.

    It is a word if it is on the list of its script and a longer word follows. Accented Latin letters, and the Cyrillic and
    Arabic ones of the list, are words anywhere: nobody names a variable so.
    """
    kind = shape[at]
    if letter not in _ONE_LETTER_WORDS[kind] and (kind != "L" or letter.isascii()):
        return ""
    alone = kind in "CA" or (kind == "L" and not letter.isascii())
    beside = shape[at + 1 : at + 4] == f" {kind}{kind}" or (kind == "G" and shape[max(0, at - 3) : at] == "GG ")
    return kind if alone or beside else ""


def _is_identifier(run: str, text: str, start: int) -> bool:
    """A part of ``snake_case``, ``camelCase``, or the name in ``print(x)`` and ``items[0]`` (but not in ``number(s)``)."""
    end = start + len(run)
    after = text[end : end + 1]
    if after == "_" or text[start - 1 : start] == "_":
        return True
    if after == "[" or (after == "(" and not text.startswith(("(s)", "(es)"), end)):
        return True
    return run[0].islower() and not run.islower() and _HUMP.search(run) is not None


def _layers(text: str) -> tuple[str, str]:
    """A text as (what is to be read, the names left in neutral material)."""
    shown: list[str] = []
    hidden: list[str] = []
    end = 0
    for match in _SPAN.finditer(text):
        if match.start() < end:
            continue
        before, mark = text[end : match.start()], match.group()
        end = match.end()
        content, read = mark, _reader(mark)
        if read is None:  # only the opening of a span
            close, behind = _closed(text, mark, end)
            if close < 0:
                shown += (before, " ")
                continue
            content, end = text[end:close], behind
            read = _read_fence if mark in ("```", "~~~") else _read_code if mark[0] == "`" else _read_formula
        visible, names = read(content)
        if mark[0] == "@":
            mailbox = before.rstrip(_MAILBOX)
            names += f" {before[len(mailbox) :]}"
            before = mailbox
        shown += (before, f" {visible} ")
        hidden.append(names)
    shown.append(text[end:])
    return "".join(shown), " ; ".join(hidden)


def _closed(text: str, mark: str, start: int) -> tuple[int, int]:
    """Where the content of a span ends and what follows begins; -1 if nothing closes it, or what does is no closing mark."""
    fence = mark in ("```", "~~~")
    closer = f"\\end{mark[6:]}" if mark.startswith("\\begin") else _CLOSERS.get(mark, mark)
    close = text.find(closer, start) if fence else text.find(closer, start, start + _LONGEST_SPAN)
    if close < 0:
        return (len(text), len(text)) if fence else (-1, start)
    behind = close + len(closer)
    if mark == "$":  # "$5 and $6" are prices: no space behind the first, one before the second
        unlike = text[start].isspace() != text[close - 1].isspace()
        if close == start or unlike or text[behind : behind + 1].isdigit():
            return -1, start
    if mark in ("$", "`", "``") and "\n\n" in text[start:close]:
        return -1, start
    return close, behind


def _has_sentence(text: str) -> bool:
    """Whether plain language stands in neutral material: three words in a row, not all of them as short as ``dx dy dz``."""
    rows = _ROW.finditer(text.translate(_SHAPES))
    return any(len(word) > 2 or "H" in word for row in rows for word in re.split("[ .]+", row.group()))


def _read_code(content: str) -> tuple[str, str]:
    return (content, "") if _has_sentence(content) else ("", content)


def _read_fence(content: str) -> tuple[str, str]:
    """A block of code is skipped; one that is mostly rows of words is text, and one without any sign of code holds names."""
    first, _, rest = content.partition("\n")
    if rest and first.strip().isalnum():  # ```python
        content = rest
    shape = content.translate(_SHAPES)
    words = len(re.findall(_WORD, shape)) + (shape.count("Z") + shape.count("K") + shape.count("T")) // 2
    in_rows = 0
    for row in _ROW.finditer(shape):
        if shape[row.start()] in "ZKT":
            in_rows += len(row.group()) // 2
        else:
            said = [word for word in re.split("[ .,:]+", content[row.start() : row.end()]) if word.lower() not in _KEYWORDS]
            in_rows += len(said) if len(said) > 3 else 0
    if in_rows * 3 > words * 2:
        return content, ""
    return "", "" if re.search(r"[=(){}\[\];]", content) else content


def _read_formula(content: str) -> tuple[str, str]:
    content = _SPACE_IN_FORMULA.sub(" ", content)
    said = " ".join(_TEXT_IN_FORMULA.findall(content))
    rest = _COMMAND.sub(_unknown_command, _TEXT_IN_FORMULA.sub(" = ", content))
    return (f"{said} ; {rest}", "") if _has_sentence(rest) else (said, rest)


def _unknown_command(command: re.Match[str]) -> str:
    return " " if (command[1] or "begin") in _LATEX_COMMANDS else f" {command[1]} "


def _read_url(content: str) -> tuple[str, str]:
    """The host is free; the path behind it could spell anything."""
    return "", re.sub("[^A-Za-z]+", " ", content.partition("//")[2].partition("/")[2])


def _read_name(content: str) -> tuple[str, str]:
    return "", "" if content.lstrip("\\") in _LATEX_COMMANDS else re.sub("[^A-Za-z]+", " ", content)


def _reader(mark: str) -> Callable[[str], tuple[str, str]] | None:
    """What reads a span that is all in its mark; ``None`` for a mark that opens one."""
    if mark[0] in "hw":
        return _read_url
    if mark[0] in "@<&" or (mark[0] == "\\" and (mark == "\\$" or mark[1].isalpha()) and not mark.startswith("\\begin{")):
        return _read_name
    return None

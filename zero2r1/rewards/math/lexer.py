"""A cleaned answer becomes tokens: numbers, names, commands, words, brackets and operators."""

from __future__ import annotations

import re
from dataclasses import dataclass

from zero2r1.rewards.math.tree import FUNCTIONS, Unreadable

MAX_LENGTH = 600
"""Characters of an answer that are read at all; the longest reference of MATH-500 has 69."""
MAX_DEPTH = 24
"""Brackets within brackets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """``kind`` is ``number symbol command word text begin end`` or, for punctuation, the character itself."""

    kind: str
    text: str
    spaced: bool = False
    """White space stands before it."""


_PIECE = re.compile(
    r"""(?P<space>\s+)
    |(?P<begin>\\begin\s*\{\s*(?P<environment>[a-z]*matrix|array|cases)\*?\s*\}(?:\{[clr|\s]*\})?)
    |(?P<end>\\end\s*\{[a-z]*\*?\})
    |(?P<text>\\(?:text|mbox|textrm|textbf|textit|textsf|mathrm|operatorname|mathbb|hbox)\*?\s*\{(?P<content>[^{}]*)\})
    |(?P<newline>\\\\)
    |(?P<escaped>\\[{}|%$\#&_])
    |(?P<command>\\[a-zA-Z]+)
    |(?P<thousands>[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?(?![\d.])(?!,\d))
    |(?P<scientific>(?:\d+(?:\.\d+)?|\.\d+)[eE][-+]?\d{1,3}(?![\w.]))
    |(?P<number>\d+\.\d+|\.\d+|\d+\.(?!\d|\.)|\d+)
    |(?P<word>[A-Za-z]+)
    |(?P<two>\*\*|<=|>=|!=|<>|==|\|\|)
    |(?P<one>[-+*/^_!=<>(){}\[\]|,;:&%'])
    """,
    re.VERBOSE,
)
_SAME = {"**": "^", "<=": "\\le", ">=": "\\ge", "!=": "\\ne", "<>": "\\ne", "==": "=", "<": "<", ">": ">", "\\{": "\\{", "\\}": "\\}"}
_COMMAND_NAMES = {
    "\\leq": "\\le", "\\geq": "\\ge", "\\neq": "\\ne", "\\leqslant": "\\le", "\\geqslant": "\\ge", "\\lt": "<", "\\gt": ">",
    "\\dfrac": "\\frac",
    "\\tfrac": "\\frac", "\\varnothing": "\\emptyset", "\\empty": "\\emptyset", "\\lbrace": "\\{", "\\rbrace": "\\}", "\\lbrack": "[",
    "\\rbrack": "]", "\\lvert": "|", "\\rvert": "|", "\\vert": "|", "\\mid": "|", "\\ast": "*", "\\cdot": "*", "\\times": "*",
    "\\bullet": "*",
    "\\colon": ":", "\\langle": "(", "\\rangle": ")", "\\degree": "\\circ", "\\lparen": "(", "\\rparen": ")", "\\dbinom": "\\binom",
    "\\tbinom": "\\binom", "\\imath": "i", "\\mathrm": "", "\\varphi": "\\phi", "\\varepsilon": "\\epsilon", "\\asin": "\\arcsin",
    "\\lor": "or", "\\vee": "or",
    "\\land": "and", "\\wedge": "and",
}  # fmt: skip
_WORDS = {
    "pi": "\\pi", "inf": "\\infty", "infty": "\\infty", "infinity": "\\infty", "oo": "\\infty", "union": "\\cup", "cup": "\\cup",
    "or": "or",
    "and": "and", "theta": "\\theta", "alpha": "\\alpha", "beta": "\\beta", "lambda": "\\lambda", "asin": "\\arcsin", "acos": "\\arccos",
    "atan": "\\arctan", "deg": "\\circ",
}  # fmt: skip
_LONGEST_PRODUCT = 3


def tokens_of(text: str) -> list[Token]:
    """All tokens of a cleaned text.

    Raises:
        Unreadable: too long, nested too deeply, brackets that do not match, or a character no answer has.
    """
    if len(text) > MAX_LENGTH:
        raise Unreadable(f"longer than {MAX_LENGTH} characters")
    found: list[Token] = []
    depth, position, spaced = 0, 0, False
    while position < len(text):
        match = _PIECE.match(text, position)
        if match is None:
            raise Unreadable(f"the character {text[position]!r} has no place in an answer")
        kind, piece = str(match.lastgroup), match.group()
        if kind == "thousands" and depth > 0:  # (1,200) is a point
            kind, piece = "number", piece.partition(",")[0]
        position += len(piece)
        if kind == "space":
            spaced = True
            continue
        new = _tokens(kind, piece, match["content"] or "", spaced)
        for token in new:
            depth += (token.kind in ("(", "[", "\\{")) - (token.kind in (")", "]", "\\}"))
            if depth > MAX_DEPTH:
                raise Unreadable("nested too deeply")
        found += new
        spaced = False
    found = [_union_sign(found, k) for k in range(len(found))]
    if sum(token.kind == "{" for token in found) > MAX_DEPTH * 4:
        raise Unreadable("nested too deeply")
    return found


def _tokens(kind: str, piece: str, content: str, spaced: bool) -> list[Token]:
    if kind in ("number", "scientific"):
        return [Token(kind="number", text=piece, spaced=spaced)]
    if kind == "thousands":
        return [Token(kind="number", text=piece.replace(",", ""), spaced=spaced)]
    if kind == "text":
        return [_textual(piece, content.strip(), spaced)]
    if kind in ("begin", "end", "newline"):
        return [Token(kind=kind, text=piece, spaced=spaced)]
    if kind == "command":
        name = _COMMAND_NAMES.get(piece, piece)
        return [Token(kind="symbol" if len(name) == 1 and name.isalpha() else name, text=name, spaced=spaced)] if name else []
    if kind == "word":
        return _word(piece, spaced)
    if kind == "escaped":
        name = {"\\%": "%", "\\|": "|", "\\$": "$", "\\_": "_"}.get(piece, piece)
        return [Token(kind=name, text=name, spaced=spaced)]
    name = _SAME.get(piece, piece)
    return [Token(kind=name, text=name, spaced=spaced)]


def _union_sign(tokens: list[Token], at: int) -> Token:
    """``(1,2) U (3,4)``: a capital U between brackets joins sets."""
    token = tokens[at]
    between = 0 < at < len(tokens) - 1 and tokens[at - 1].kind in (")", "]") and tokens[at + 1].kind in ("(", "[")
    return Token(kind="\\cup", text="U", spaced=token.spaced) if between and token.kind == "symbol" and token.text == "U" else token


def _textual(piece: str, content: str, spaced: bool) -> Token:
    if piece.startswith("\\mathbb"):
        return Token(kind="reals" if content == "R" else "text", text=content, spaced=spaced)
    if (len(content) == 1 and content.isalpha()) or content in FUNCTIONS:
        return Token(kind="symbol" if len(content) == 1 else f"\\{content}", text=content, spaced=spaced)
    if content.lower() in ("or", "and"):
        return Token(kind=content.lower(), text=content, spaced=spaced)
    if content.isascii() and content.isdigit():
        return Token(kind="number", text=content, spaced=spaced)
    return Token(kind="text", text=content, spaced=spaced)


def _word(piece: str, spaced: bool) -> list[Token]:
    if piece in _WORDS:
        return [Token(kind=_WORDS[piece], text=piece, spaced=spaced)]
    if piece in FUNCTIONS:
        return [Token(kind=f"\\{piece}", text=piece, spaced=spaced)]
    if piece.lower() in ("or", "and"):
        return [Token(kind=piece.lower(), text=piece, spaced=spaced)]
    if len(piece) > _LONGEST_PRODUCT:
        raise Unreadable(f"the word {piece!r} is no mathematics")
    return [Token(kind="symbol", text=letter, spaced=spaced and k == 0) for k, letter in enumerate(piece)]

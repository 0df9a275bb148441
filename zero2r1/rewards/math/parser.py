r"""The grammar of answers: a recursive descent over tokens, no evaluation and no regular expression over nested text.

list      := relation ((',' | ';' | 'and' | 'or') relation)*
relation  := union (relop union)*
union     := sum ('\cup' sum)*
sum       := product (('+' | '-' | '\pm' | '\mp') product)*
product   := power (('*' | '/' | '\div' | nothing) power)*        left to right: 1/2x is (1/2)x
power     := postfix ('^' group)?
postfix   := primary ('!' | '%' | '^\circ')*
primary   := number | name | \frac | \sqrt | function | bracket | |sum| | set | matrix | \binom
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from zero2r1.rewards.math.lexer import MAX_DEPTH, Token, tokens_of
from zero2r1.rewards.math.tree import FUNCTIONS, Node, Unreadable, number, operation, symbol

RELATIONS = {"=": "=", "<": "<", ">": ">", "\\le": "<=", "\\ge": ">=", "\\ne": "!=", "\\in": "in"}
_MIRRORED = {")": "(", "]": "["}
_NAMED_FUNCTIONS = frozenset("fgFG")
_GREEK = frozenset(
    (
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi chi psi omega Gamma Delta Theta "
        "Lambda Xi Sigma Phi Psi Omega ell"
    ).split()
)
_MINUS_ONE = operation("neg", number(1))
_END = Token(kind="", text="")


def parse(text: str) -> Node:
    """The tree of one cleaned answer, units aside.

    Raises:
        Unreadable: it is no answer of this grammar.
    """
    parser = _Parser(tokens_of(text))
    node = parser.items()
    if parser.token.kind:
        raise Unreadable(f"nothing is expected at {parser.token.text!r}")
    return node


class _Parser:
    """One pass over the tokens; methods are named for the rules above."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0
        self.bars = 0

    @property
    def token(self) -> Token:
        return self.tokens[self.at] if self.at < len(self.tokens) else _END

    def peek(self, ahead: int = 1) -> Token:
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else _END

    def take(self, *kinds: str) -> Token | None:
        if self.token.kind and self.token.kind in kinds:
            self.at += 1
            return self.tokens[self.at - 1]
        return None

    def need(self, *kinds: str) -> Token:
        taken = self.take(*kinds)
        if taken is None:
            raise Unreadable(f"{' or '.join(kinds)} is missing" + (f" before {self.token.text!r}" if self.token.kind else " at the end"))
        return taken

    def items(self, *, words: bool = True) -> Node:
        """A list; ``and`` and ``or`` join its items outside round and square brackets only."""
        found, joined = [self.relation()], set()
        while (by := self.take(",", ";", *(("and", "or") if words else ()))) is not None:
            extra = self.take("and", "or") if words and by.kind in ",;" else None
            joined.add((extra or by).kind)
            found.append(self.relation())
        if len(found) == 1:
            return found[0]
        if joined in ({"or"}, {"and"}) and all(node.kind == "relation" and node.name != "=" for node in found):
            return operation("union" if "or" in joined else "both", *found)
        return operation("list", *found)

    def relation(self) -> Node:
        terms, names = [self.union()], []
        while (by := self.take(*RELATIONS)) is not None:
            names.append(RELATIONS[by.kind])
            terms.append(self.union())
        return operation("relation", *terms, name=" ".join(names)) if names else terms[0]

    def union(self) -> Node:
        parts = [self.sum()]
        while self.take("\\cup"):
            parts.append(self.sum())
        return parts[0] if len(parts) == 1 else operation("union", *parts)

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH * 2:
            raise Unreadable("nested too deeply")
        sign = self.take("-", "+", "\\pm", "\\mp")
        first = self.product()
        terms = [_signed(sign, first)]
        while (by := self.take("+", "-", "\\pm", "\\mp")) is not None:
            inner = self.take("-", "+")
            terms.append(_signed(by, _signed(inner, self.product())))
        self.depth -= 1
        return terms[0] if len(terms) == 1 else operation("+", *terms)

    def product(self) -> Node:
        result = self.power()
        while True:
            if self.take("*"):
                result = _times(result, self._factor())
            elif self.take("/", "\\div"):
                result = operation("/", result, self._factor())
            elif self._starts_factor():
                result = _times(result, self.power())
            elif self.token.kind == ":" and result.kind in ("number", "ratio", "symbol"):
                self.at += 1
                parts = result.args if result.kind == "ratio" else (result,)
                result = operation("ratio", *parts, self._factor())
            else:
                return result

    def _factor(self) -> Node:
        return _signed(self.take("-", "+"), self.power())

    def _starts_factor(self) -> bool:
        kind = self.token.kind
        if kind == "number":  # 3 4 is no product; 3 1/2 and 3\frac12 are read in primary
            return self.at > 0 and self.tokens[self.at - 1].kind in (")", "]", "}", "!") and not self.token.spaced
        if kind == "|":
            return self.bars == 0
        named = kind.startswith("\\") and (kind[1:] in FUNCTIONS or kind[1:] in _GREEK)
        return named or kind in ("symbol", "(", "\\pi", "\\infty", "\\frac", "\\cbrt", "\\binom", "\\lfloor", "\\lceil", "[", "{")

    def power(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH * 2:
            raise Unreadable("nested too deeply")
        base = self.postfix(self.primary())
        if self.token.kind == "^":
            self.at += 1
            base = self.postfix(operation("^", base, self._exponent()))
        self.depth -= 1
        return base

    def _exponent(self) -> Node:
        if self.token.kind == "{":
            return self.group()
        sign = self.take("-", "+")
        if sign is None and self.token.kind == "number" and len(self.token.text) > 1 and not self.token.spaced and self._latex():
            raise Unreadable(f"^{self.token.text} without braces can be read in two ways")
        return _signed(sign, self.power())

    def _latex(self) -> bool:
        return any(token.kind.startswith("\\") for token in self.tokens)

    def postfix(self, node: Node) -> Node:
        while True:
            if self.take("!"):
                node = operation("!", node)
            elif self.take("%"):
                node = operation("%", node)
            elif self.token.kind == "\\circ":
                self.at += 1
                node = operation("degree", node)
            elif self.token.kind == "^" and (self.peek().kind == "\\circ" or (self.peek().kind == "{" and self.peek(2).kind == "\\circ")):
                braced = self.peek().kind == "{"
                self.at += 2 + braced
                if braced:
                    self.need("}")
                node = operation("degree", node)
            else:
                return node

    def group(self) -> Node:
        """The content of ``{...}``, or a single digit or letter, as LaTeX takes arguments."""
        if self.take("{"):
            return self._braces()
        if self.token.kind == "number" and len(self.token.text) > 1:
            first, rest = self.token.text[0], self.token.text[1:]
            self.tokens[self.at] = Token(kind="number", text=rest)
            return number(int(first)) if first.isdigit() and rest.isdigit() else _raise(f"{self.token.text!r} is no argument")
        return self.primary()

    def primary(self) -> Node:
        token = self.token
        rule = self._rules().get(token.kind)
        if rule is not None:
            self.at += 1
            return rule()
        if token.kind.startswith("\\") and token.kind[1:] in FUNCTIONS:
            self.at += 1
            return self._function(token.kind[1:])
        if token.kind.startswith("\\") and token.kind[1:] in _GREEK:
            self.at += 1
            return self._subscripted(token.kind[1:])
        raise Unreadable(f"{token.text!r} does not begin a value" if token.kind else "a value is missing at the end")

    def _rules(self) -> dict[str, Callable[[], Node]]:
        return {
            "number": self._number, "symbol": self._symbol, "(": lambda: self._bracket("("), "[": lambda: self._bracket("["),
            "{": self._braces, "\\{": self._set, "|": self._bars, "\\frac": self._fraction, "\\sqrt": self._root, "\\cbrt": self._cube_root,
            "\\pi": lambda: symbol("pi"), "\\infty": lambda: symbol("infinity"), "\\emptyset": lambda: operation("set"),
            "begin": self._matrix,
            "\\binom": lambda: operation("choose", self.group(), self.group()), "reals": _all_reals,
            "\\lfloor": lambda: self._rounded("floor"),
            "\\lceil": lambda: self._rounded("ceil"),
        }  # fmt: skip

    def _number(self) -> Node:
        token = self.tokens[self.at - 1]
        text = token.text
        if self.token.kind == "_":
            self.at += 1
            return operation("base", self.group(), name=text)
        if "e" in text.lower():
            return number(Fraction(text), "scientific")
        if text.isdigit():
            mixed = self._mixed(int(text))
            return mixed if mixed is not None else number(int(text))
        return number(Fraction(text.rstrip(".") if text.endswith(".") else text), "decimal")

    def _mixed(self, whole: int) -> Node | None:
        """``3 1/2`` and ``3\\frac{1}{2}``: what school books mean by it, not a product."""
        a, slash, b = self.token, self.peek(), self.peek(2)
        if a.kind == b.kind == "number" and slash.kind == "/" and a.spaced and a.text.isdigit() and b.text.isdigit():
            if not (whole and 0 < int(a.text) < int(b.text)):
                raise Unreadable("a mixed number that is not carried out")
            self.at += 3
            return number(whole + Fraction(int(a.text), int(b.text)), "mixed")
        if a.kind != "\\frac":
            return None
        self.at += 1
        fraction = self._fraction()
        top, bottom = (part.value if part.kind == "number" else None for part in fraction.args)
        if top is not None and bottom is not None and top.denominator == bottom.denominator == 1 and whole and 0 < top < bottom:
            return number(whole + top / bottom, "mixed")
        return operation("*", number(whole), fraction)

    def _symbol(self) -> Node:
        name = self.tokens[self.at - 1].text
        if name in _NAMED_FUNCTIONS and self.token.kind == "(" and not self.token.spaced:
            self.at += 1
            inner = self._bracket("(")
            return operation("apply", symbol(name), inner)
        return self._subscripted(name)

    def _subscripted(self, name: str) -> Node:
        if self.take("_"):
            index = self.group()
            if index.kind not in ("number", "symbol"):
                raise Unreadable("a subscript that is neither a number nor a letter")
            return symbol(f"{name}_{index.value if index.value is not None else index.name}")
        return symbol(name)

    def _bracket(self, opened: str) -> Node:
        if self.token.kind in (")", "]"):
            raise Unreadable("an empty bracket")
        inner = self.items(words=False)
        closed = self.need(")", "]").kind
        if inner.kind != "list":
            if _MIRRORED[closed] != opened:
                raise Unreadable("brackets that do not match")
            return inner
        return operation("tuple", *inner.args, name=opened + closed)

    def _braces(self) -> Node:
        inner = self.items()
        by = self.take("\\over", "\\choose")
        if by is not None:
            inner = operation("/" if by.kind == "\\over" else "choose", inner, self.items())
        self.need("}")
        return inner

    def _set(self) -> Node:
        if self.take("\\}"):
            return operation("set")
        inner = self.items()
        self.need("\\}")
        return operation("set", *(inner.args if inner.kind == "list" else (inner,)))

    def _bars(self) -> Node:
        self.bars += 1
        inner = self.sum()
        self.need("|")
        self.bars -= 1
        return operation("abs", inner)

    def _fraction(self) -> Node:
        return operation("/", self.group(), self.group())

    def _root(self) -> Node:
        index: Node | None = None
        if self.token.kind == "[":
            self.at += 1
            index = self.sum()
            self.need("]")
        inner = self.group()
        return operation("sqrt", inner) if index is None else operation("^", inner, operation("/", number(1), index))

    def _cube_root(self) -> Node:
        return operation("^", self.group(), operation("/", number(1), number(3)))

    def _rounded(self, kind: str) -> Node:
        inner = self.sum()
        self.need("\\rfloor" if kind == "floor" else "\\rceil")
        return operation(kind, inner)

    def _function(self, name: str) -> Node:
        if name == "sqrt":
            return self._root()
        base = self.group() if name == "log" and self.take("_") else None
        power = self._exponent() if self.take("^") else None
        if power == _MINUS_ONE and f"arc{name}" in FUNCTIONS:
            name, power = f"arc{name}", None
        if self.token.kind == "(":
            self.at += 1
            inner = self.items(words=False)
            self.need(")")
            args = inner.args if inner.kind == "list" else (inner,)
        else:
            args = (self.postfix(self.power()),)
            while self.token.kind in ("symbol", "\\pi"):  # sin 2x
                args = (_times(args[0], self.power()),)
        if len(args) > 1 and name not in ("max", "min", "gcd", "lcm", "log"):
            raise Unreadable(f"{name} of {len(args)} values")
        result = operation(name, *args, *([base] if base is not None else []))
        return result if power is None else operation("^", result, power)

    def _matrix(self) -> Node:
        rows: list[list[Node]] = [[]]
        while True:
            rows[-1].append(self.relation())
            if self.take("&"):
                continue
            if self.take("newline"):
                if self.token.kind == "end":
                    break
                rows.append([])
                continue
            break
        self.need("end")
        if len({len(row) for row in rows}) != 1:
            raise Unreadable("matrix rows of different lengths")
        return operation("matrix", *(operation("row", *row) for row in rows))


def _all_reals() -> Node:
    infinity = symbol("infinity")
    return operation("tuple", operation("neg", infinity), infinity, name="()")


def _signed(sign: Token | None, node: Node) -> Node:
    if sign is None or sign.kind == "+":
        return node
    return operation({"-": "neg", "\\pm": "pm", "\\mp": "mp"}[sign.kind], node)


def _times(left: Node, right: Node) -> Node:
    if left.kind == "*":
        return operation("*", *left.args, right)
    return operation("*", left, right)


def _raise(message: str) -> Node:
    raise Unreadable(message)

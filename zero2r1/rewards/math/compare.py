"""Is an answer equal to a reference? Kind and cardinality first, then exact values, then numbers at two precisions.

Equality of trees (:func:`equal`) is symmetric. What is not, by rule: the answer must be in final form (``final_form.py``), a unit or an
``x =`` may be left out or added, and a reference that is an equation is only met by an equation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from zero2r1.rewards.math.clean import clean
from zero2r1.rewards.math.exact import Exact, Undecided, Undefined, canonical, difference, exact, proportional, settled
from zero2r1.rewards.math.final_form import why_not_final
from zero2r1.rewards.math.numeric import equal_by_value
from zero2r1.rewards.math.parser import parse
from zero2r1.rewards.math.real_sets import looks_like_a_real_set, real_set
from zero2r1.rewards.math.tree import Node, Unreadable, is_expression, number, operation, variables
from zero2r1.rewards.math.unit_words import KNOWN
from zero2r1.rewards.math.units import conversion, measure, split_unit
from zero2r1.rewards.math.words import choice_letter, same_words, words_of

MAX_ITEMS = 40
_LETTER_DIGITS = re.compile(r"(?=\w\w)([0-9]*[A-Za-z][0-9A-Za-z]*)_\s?\{?\s?(\d{2})\s?\}?")
_NAMED = re.compile(
    r"\s*((?:\\(?:overline|vec|hat|bar|text|mathrm|angle|triangle|overrightarrow)\s*\{?\s?[A-Za-z ]{1,20}\}?|\|?[A-Z]{1,3}\|?|"
    r"\\frac\s?\{d[a-z]?\}\s?\{d[a-z]\}|d[a-z]/d[a-z]|[a-zA-Z]|"
    r"\\(?!in|le|ge|ne|lt|gt)[a-z]{2,8})(?:'|\^\{-1\}|_\{?\\?\w{1,6}\}?)*(?:\([A-Za-z|, ]{1,8}\))?)\s*=\s*([^=<>]+)",
    re.DOTALL,
)
"""``x = ...``, ``f'(x) = ...``, ``\\angle ABC = ...``, ``AB = ...``: a name and what it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """``correct`` is ``None`` when the reference itself cannot be read."""

    correct: bool | None
    why: str
    vote: str | None = None
    """The same for equal answers, as far as a canonical form is known."""


def compare(gold: str, answer: str, *, percent_asked: bool = False) -> Outcome:
    """Judge one answer. Never raises on any text, takes bounded memory; time is bounded by the wall around it.

    Args:
        percent_asked: the question asks for a percentage, so that 18 and 18 % are the same answer.
    """
    gold_text, answer_text = clean(gold), clean(answer)
    letter = choice_letter(gold_text)
    if letter is not None:
        return _outcome(choice_letter(answer_text) == letter, "another letter", vote=choice_letter(answer_text))
    words = words_of(gold_text)
    if words is not None:
        return _outcome(same_words(answer_text, words), "other words", vote=answer_text.casefold())
    try:
        wanted, gold_unit = _read(gold_text)
        if is_expression(wanted):
            _exact_or_none(wanted)  # a reference that divides by zero is a fault of the data
    except (Unreadable, Undefined) as error:
        return Outcome(correct=None, why=f"the reference {gold[:80]!r} cannot be read: {error}")
    if not answer_text:
        return Outcome(correct=False, why="no answer")
    try:
        given, unit = _read(answer_text)
    except Unreadable as error:
        return Outcome(correct=False, why=f"the answer cannot be read: {error}", vote=answer_text)
    try:
        why = _why_different(wanted, gold_unit, given, unit, percent_asked)
    except (Undecided, Undefined) as error:
        why = f"not shown to be equal: {error}"
    return Outcome(correct=why is None, why=why or "equal", vote=vote_of(given) or answer_text)


def equal(a: Node, b: Node) -> bool:
    """Whether two trees mean the same. Symmetric.

    Raises:
        Undecided, Undefined: that cannot be told.
    """
    if a == b and not is_expression(a):
        return True
    if looks_like_a_real_set(a) or looks_like_a_real_set(b):
        return _same_real_set(a, b)
    if is_expression(a) and is_expression(b):
        return _same_value(a, b)
    if {a.kind, b.kind} == {"list", "set"}:
        return _same_items(a.args, b.args, ordered=False)
    if {a.kind, b.kind} == {"matrix", "tuple"}:
        a, b = _as_matrix(a), _as_matrix(b)
    if a.kind != b.kind:
        return False
    if a.kind in ("tuple", "ratio", "row", "matrix"):
        return a.name == b.name and _same_items(a.args, b.args, ordered=True)
    if a.kind == "set":
        return _same_items(_distinct(a.args), _distinct(b.args), ordered=False)
    if a.kind == "list":
        return _same_items(a.args, b.args, ordered=False)
    if a.kind == "base":
        return a.name.lstrip("0") == b.name.lstrip("0") and equal(a.args[0], b.args[0])
    if a.kind == "relation":
        return _same_equation(a, b)
    raise Undecided(f"{a.kind} in a place where it has no meaning")


def _as_matrix(node: Node) -> Node:
    """``[[1,2],[3,4]]`` as the matrix it spells; any other node as it is."""
    rows = node.args
    if node.kind != "tuple" or any(row.kind != "tuple" or len(row.args) != len(rows[0].args) for row in rows):
        return node
    return operation("matrix", *(operation("row", *row.args) for row in rows))


def vote_of(node: Node) -> str | None:
    """One text for all ways to write an exact value."""
    try:
        return canonical(exact(node)) if is_expression(node) else None
    except (Undecided, Undefined):
        return None


def _outcome(correct: bool, otherwise: str, *, vote: str | None) -> Outcome:
    return Outcome(correct=correct, why="equal" if correct else otherwise, vote=vote)


def _read(text: str) -> tuple[Node, str]:
    """The tree of a cleaned text and its unit. The name in ``x = 5 km`` stands outside the quantity."""
    digits = _LETTER_DIGITS.fullmatch(text)
    if digits and 11 <= int(digits[2]) <= 36:
        return operation("base", number(int(digits[2])), name=digits[1].upper()), ""
    named = _NAMED.fullmatch(text)
    core, unit, factor = split_unit(named[2] if named else text)
    node = parse(core)
    if factor != 1:
        if node.kind != "number" or node.value is None:
            raise Unreadable("a multiple of something that is no number")
        node = number(node.value * factor, "decimal")
    if node.kind == "degree":
        node, unit = node.args[0], unit or "degree"
    if named:
        node = operation("relation", _name(named[1]), node, name="=")
    if node.kind == "relation" and node.name == "=" and node.args[1].kind == "symbol" and not variables(node.args[0]):
        node = operation("relation", *node.args[::-1], name="=")  # 5 = x
    node = _expanded(node)
    if node.kind == "relation" and node.name == "in" and node.args[1].kind == "set":
        node = operation("list", *node.args[1].args)  # x \in \{1,2\}
    if unit and not (is_expression(node) or node.kind == "relation"):
        raise Unreadable(f"{unit!r} behind something that is no number")
    return node, unit


def _name(text: str) -> Node:
    """The left side of a definition: an unknown of its own, however it is decorated."""
    try:
        node = parse(text)
    except Unreadable:
        node = operation("name")
    if node.kind == "symbol":
        return node
    return operation("symbol", name=" ".join(re.sub(r"[\\{}]", " ", text).split()))


def _expanded(node: Node) -> Node:
    """``1 \\pm \\sqrt{2}`` stands for two values: a list of both, inside sets and lists too."""
    if node.kind in ("list", "set"):
        items: list[Node] = []
        for arg in node.args:
            found = _expanded(arg)
            items += found.args if found.kind == "list" else (found,)
        return operation(node.kind, *items, name=node.name)
    if node.kind == "relation" and node.name == "=" and node.args[0].kind == "symbol":
        found = _expanded(node.args[1])
        return found if found.kind == "list" else node
    if not any(part.kind in ("pm", "mp") for part in node.walk()):
        return node
    if not is_expression(node):
        raise Unreadable("plus or minus inside brackets")
    return operation("list", _with_sign(node, 1), _with_sign(node, -1))


def _with_sign(node: Node, sign: int) -> Node:
    args = tuple(_with_sign(arg, sign) for arg in node.args)
    if node.kind in ("pm", "mp"):
        return args[0] if (sign > 0) == (node.kind == "pm") else operation("neg", args[0])
    return Node(kind=node.kind, args=args, name=node.name, value=node.value)


def _why_different(wanted: Node, gold_unit: str, given: Node, unit: str, percent_asked: bool) -> str | None:
    wanted, given = _without_name(wanted, given)
    rate = conversion(unit, gold_unit)
    if rate is None and {measure(unit), measure(gold_unit)} == {KNOWN["degree"], KNOWN["radian"]}:
        return _angles_differ(wanted, given, given_in_degrees=measure(unit) == KNOWN["degree"])
    if rate is None:
        return f"the unit is {unit}, not {gold_unit}"
    if wanted.kind == "base" and given.kind == "number":
        given = operation("base", wanted.args[0], name=str(given.value))  # the base was asked for
    reason = _not_final(given, wanted)
    if reason is not None:
        return reason
    if percent_asked and equal(*(node.args[0] if node.kind == "%" else node for node in (wanted, given))):
        return None
    if rate != 1:
        given = operation("*", given, number(rate))
    return None if equal(wanted, given) else f"{_shown(given)} is not {_shown(wanted)}"


def _angles_differ(wanted: Node, given: Node, *, given_in_degrees: bool) -> str | None:
    degrees, radians = (given, wanted) if given_in_degrees else (wanted, given)
    same = is_expression(degrees) and is_expression(radians) and equal(operation("degree", degrees), radians)
    return None if same else "another angle"


def _not_final(given: Node, wanted: Node) -> str | None:
    """Within lists, points and intervals every entry with a rational value must be worked out, unless the reference shows it so."""
    if is_expression(given):
        return why_not_final(given, wanted) if is_expression(wanted) else None
    if given.kind == "relation" and variables(wanted):
        return None
    shown = set(wanted.walk())
    for part in given.args:
        if not is_expression(part):
            reason = _not_final(part, wanted)
        elif part in shown or variables(part) or _rational(part) is None:
            reason = None
        else:
            reason = why_not_final(part, number(_rational(part) or 0))
        if reason is not None:
            return reason
    return None


def _rational(node: Node) -> Fraction | None:
    value = _exact_or_none(node)
    return None if value is None else value.rational


def _without_name(wanted: Node, given: Node) -> tuple[Node, Node]:
    """``x = 5`` beside ``5``: the name of the unknown may be added or left out where the other side is a value."""
    if (_is_definition(given) or _is_labelled_sum(given)) and wanted.kind != "relation":
        given = given.args[1]
    elif given.kind in ("list", "union") and wanted.kind in ("list", "set") and any(_is_definition(item) for item in given.args):
        given = operation("list", *(item.args[1] if _is_definition(item) else item for item in given.args))
    elif _is_definition(wanted) and given.kind != "relation" and not variables(wanted.args[1]):
        wanted = wanted.args[1]
    return wanted, given


def _is_labelled_sum(node: Node) -> bool:
    """``m + n = 116``, as contests end: a sum of unknowns is named, and its value given."""
    if node.kind != "relation" or node.name != "=":
        return False
    left, right = node.args
    return left.kind == "+" and all(part.kind == "symbol" for part in left.args) and bool(variables(left)) and not variables(right)


def _is_definition(node: Node) -> bool:
    """``name = value`` or ``f(x) = value`` where the name does not occur in the value."""
    if node.kind != "relation" or node.name != "=":
        return False
    left, right = node.args
    if left.kind == right.kind == "tuple" and len(left.args) == len(right.args):
        return all(part.kind == "symbol" for part in left.args) and not variables(left) & variables(right)
    if left.kind == "apply":
        left = left.args[0]
    return left.kind == "symbol" and bool(variables(left)) and left.name not in variables(right)


def _same_value(a: Node, b: Node) -> bool:
    if a == b:
        _exact_or_none(a)
        return True
    if any(part.kind == "symbol" and part.name == "infinity" for node in (a, b) for part in node.walk()):
        return a == b
    try:
        left, right = exact(a), exact(b)
        rest = difference(left, right)
        if not rest:
            return True
        if settled(rest):
            return False
    except Undecided:
        pass
    return equal_by_value(a, b)


def _exact_or_none(node: Node) -> Exact | None:
    """The exact value where there is one; raises ``Undefined`` for a division by zero."""
    try:
        return exact(node)
    except Undecided:
        return None


def _same_items(a: Sequence[Node], b: Sequence[Node], *, ordered: bool) -> bool:
    if len(a) != len(b) or len(a) > MAX_ITEMS:
        return False
    if ordered:
        return all(equal(x, y) for x, y in zip(a, b, strict=True))
    left = list(b)
    for x in a:
        at = next((k for k, y in enumerate(left) if equal(x, y)), None)
        if at is None:
            return False
        left.pop(at)
    return True


def _distinct(items: Sequence[Node]) -> list[Node]:
    found: list[Node] = []
    for item in items[: MAX_ITEMS + 1]:
        if not any(equal(item, other) for other in found):
            found.append(item)
    return found


def _same_real_set(a: Node, b: Node) -> bool:
    if variables(a) and variables(b) and variables(a) != variables(b):
        return False
    left, right = real_set(a), real_set(b)
    if left is None or right is None:
        if a.kind == b.kind == "tuple":
            return a.name == b.name and _same_items(a.args, b.args, ordered=True)
        return a.kind == b.kind == "relation" and _same_inequality(a, b)
    return len(left) == len(right) and all(
        (x.low_closed, x.high_closed) == (y.low_closed, y.high_closed) and _same_value(x.low, y.low) and _same_value(x.high, y.high)
        for x, y in zip(left, right, strict=True)
    )


def _same_inequality(a: Node, b: Node) -> bool:
    """``x + y < 3`` and ``3 > x + y``: the same sides in the same order."""

    def ordered(node: Node) -> tuple[str, tuple[Node, ...]]:
        turned = ">" in node.name
        return node.name.replace(">", "<"), node.args[::-1] if turned else node.args

    (name, left), (other, right) = ordered(a), ordered(b)
    return name == other and _same_items(left, right, ordered=True)


def _same_equation(a: Node, b: Node) -> bool:
    """Side by side equal, or left minus right multiples of each other: ``y = 2x + 3`` and ``2x - y + 3 = 0``.

    Where one is ``x = constant``, so must be the other: an equation that has this solution is the question, not the answer.
    """
    if a.name != b.name or a.name != "=":
        return a.name == b.name and _same_items(a.args, b.args, ordered=True)
    solved = [_is_definition(node) and not variables(node.args[1]) for node in (a, b)]
    if any(solved):
        return all(solved) and a.args[0] == b.args[0] and equal(a.args[1], b.args[1])
    try:
        if proportional(*(exact(operation("+", node.args[0], operation("neg", node.args[1]))) for node in (a, b))):
            return True
    except Undecided:
        pass
    pairs = (b.args, b.args[::-1])
    return any(
        all(is_expression(x) and is_expression(y) and _equal_or_open(x, y) for x, y in zip(a.args, pair, strict=True)) for pair in pairs
    )


def _equal_or_open(a: Node, b: Node) -> bool:
    try:
        return _same_value(a, b)
    except Undecided:
        return False


def _shown(node: Node) -> str:
    found = vote_of(node)
    return found if found is not None and len(found) < 60 else f"this {node.kind}"

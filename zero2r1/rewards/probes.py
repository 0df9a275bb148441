"""What a reward function does with answers whose worth is known: a check before it teaches a model anything."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from zero2r1.rewards.adapters import adapt
from zero2r1.rewards.combine import RewardError, call_reward
from zero2r1.rewards.isolated import Graded, IsolatedReward, RewardPool

LAYOUTS: Mapping[str, str] = {
    "in <answer> tags": "<think> {thought} </think> <answer> {answer} </answer>",
    "in \\boxed": "<think> {thought} </think> The answer is \\boxed{{{answer}}}.",
    "after ####": "<think> {thought} </think> It follows.\n#### {answer}",
}
"""Where functions look for an answer; each is probed with a right and a wrong one."""
_GOLD_COLUMNS = ("answer", "ground_truth", "solution", "label", "labels", "target", "gold", "final_answer")
_ROW: Mapping[str, Any] = {"id": "probe", "verifier": "math", "domain": "math", "language": "en", "data_source": "probe", "extra_info": {}}
_EMPTY, _THOUGHT, _CUT = "empty", "only the thinking", "cut off in the thinking"

Form = Literal["text", "messages"]
Call = Callable[[Mapping[str, list[Any]]], Graded]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One call: ``Probe(name="empty", values=(0.0,), seconds=0.0002)``."""

    name: str
    values: tuple[float | None, ...] = ()
    fault: str | None = None
    """Why there are no values."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReport:
    """``faults`` must be mended before training; ``remarks`` may be what the function is meant to do."""

    title: str
    form: Form
    """``messages``: it works on ``[{"role", "content"}]`` only, so the prompts must be messages too."""
    probes: tuple[Probe, ...]
    right_beats_wrong: bool
    """In one layout at least, and in none the other way round. A reward of format or length need not."""
    faults: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """For printing, without characters that could steer a terminal."""
        width = max(len(probe.name) for probe in self.probes)
        shown = [f"  {probe.name:<{width}}  {_shown(probe)}" for probe in self.probes]
        told = [*(f"fault   {fault}" for fault in self.faults), *(f"remark  {remark}" for remark in self.remarks)]
        return tuple(printable(line) for line in (f"reward  {self.title}", *shown, *(told or ["no fault found"])))


def probe_reward(
    function: str | IsolatedReward | Callable[..., Any],
    *,
    question: str = "What is 7 + 5?",
    answer: str = "12",
    wrong: str = "11",
    columns: Mapping[str, Any] | None = None,
    limit_s: float = 10.0,
    slow_s: float = 1.0,
) -> ProbeReport:
    """Call a reward function with right, wrong, empty, cut off, long and odd completions, alone and three at once, and judge it.

    Args:
        function: its name (``my_rewards.py:f``), which is probed in a process of its own; an :class:`IsolatedReward`, probed
            in a fresh process too; or a function, which is called here and may therefore hang.
        columns: further columns, with the value of one sample: ``{"tests": ["assert f(1) == 2"]}``.
        slow_s: seconds for one completion that deserve a remark.

    Raises:
        RewardError: the function cannot be imported.
        ValueError: there is no such file, or the signature is nobody's.
    """
    gold = dict.fromkeys(_GOLD_COLUMNS, answer)
    row = {"prompts": question, **gold, **_ROW, **(columns or {})}
    with _opened(function, limit_s) as opened:
        session = _Session(opened, row, time_to_lose=2.5 * limit_s)
        texts = _texts(answer, wrong)
        session.choose_form(texts[f"right {next(iter(LAYOUTS))}"])
        for name, text in texts.items():
            session.ask(name, [text])
        return _report(session, texts, slow_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """A function, wherever it runs."""

    where: str
    style: str
    takes_all: bool
    call: Call


@contextmanager
def _opened(function: str | IsolatedReward | Callable[..., Any], limit_s: float) -> Iterator[_Opened]:
    if isinstance(function, IsolatedReward):
        limit_s = function.pool.limit_s
        function = function.pool.function
    if isinstance(function, str):
        with RewardPool(function, limit_s=limit_s, workers=1, spare_workers=0, max_invalid_in_a_row=sys.maxsize) as pool:
            facts = pool.facts
            where = f'reward "{facts.name}" ({facts.place})'
            yield _Opened(where=where, style=facts.style, takes_all=facts.takes_all, call=lambda given: pool.submit(given).result())
        return
    reward = adapt(function)
    where = f'reward "{reward.name}" ({reward.place})'

    def call(given: Mapping[str, list[Any]]) -> Graded:
        began = time.perf_counter()
        try:
            values, reason = tuple(call_reward(where, reward, given).values), None
        except RewardError:
            raise
        except Exception as error:  # what a user's function raises is a finding
            values, reason = (None,) * len(given["completions"]), f"raised {type(error).__name__}: {error}"
        return Graded(values=values, reason=reason, seconds=time.perf_counter() - began)

    yield _Opened(where=where, style=reward.signature.style, takes_all=reward.signature.takes_all, call=call)


def _texts(answer: str, wrong: str) -> dict[str, str]:
    """The completions, by name."""
    texts = {}
    for layout, form in LAYOUTS.items():
        texts[f"right {layout}"] = form.format(thought=f"7 + 5 = {answer}", answer=answer)
        texts[f"wrong {layout}"] = form.format(thought=f"7 + 5 = {wrong}", answer=wrong)
    texts[_EMPTY] = ""
    texts[_THOUGHT] = f"<think> 7 + 5 = {answer} </think>"
    texts[_CUT] = f"<think> 7 + 5 = {answer}"
    texts["100,000 characters"] = ("<think> " + f"7 + 5 = {wrong}? Wait, " * 6000)[:100_000]
    texts["5,000 digits"] = f"<think> a </think> <answer> {'1' * 5000} </answer>"
    texts["other scripts"] = "<think> 七加五 ١٢ दो \U0001f9ee e\u0301 </think> <answer> \U0001f449 двенадцать \u2705 </answer>"
    texts["control characters"] = "<think> \x00\x1b[31m\r\u202e\ufffd </think> <answer> \x00 </answer>\x07"
    return texts


@dataclass(slots=True)
class _Session:
    """The calls made so far."""

    opened: _Opened
    row: Mapping[str, Any]
    time_to_lose: float
    """Seconds that calls without a value may still take: a function that always hangs is not waited for twenty times."""
    form: Form = "text"
    probes: dict[str, Probe] = field(default_factory=dict)

    def call(self, texts: Sequence[str], form: Form, row: Mapping[str, Any]) -> Probe:
        gold = {"ground_truth": row.get("ground_truth")}
        columns: dict[str, list[Any]] = {name: [value] * len(texts) for name, value in {"reward_model": gold, **row}.items()}
        columns["completions"] = list(texts)
        columns["completion_ids"] = [list(range(1, 1 + min(len(text), 64))) for text in texts]
        columns["finish_reason"] = ["length" if text.count("<think>") > text.count("</think>") else "stop" for text in texts]
        if form == "messages":
            columns["prompts"] = [[{"role": "user", "content": row["prompts"]}] for _ in texts]
            columns["completions"] = [[{"role": "assistant", "content": text}] for text in texts]
        if self.time_to_lose <= 0:
            return Probe(name="", fault="not tried, because too many calls before took too long")
        try:
            graded = self.opened.call(columns)
        except RewardError as error:
            return Probe(name="", fault=str(error).removeprefix(f"{self.opened.where} "))
        self.time_to_lose -= graded.seconds if graded.reason else 0.0
        return Probe(name="", values=() if graded.reason else graded.values, fault=graded.reason, seconds=graded.seconds)

    def choose_form(self, text: str) -> None:
        """Messages only if that works and text does not."""
        if self.opened.style == "TRL" and self.call([text], "text", self.row).fault:
            self.form = "text" if self.call([text], "messages", self.row).fault else "messages"

    def ask(self, name: str, texts: Sequence[str], **changed: Any) -> Probe:
        """Make a call and keep it under this name."""
        done = self.call(texts, self.form, {**self.row, **changed})
        self.probes[name] = Probe(name=name, values=done.values, fault=done.fault, seconds=done.seconds)
        return self.probes[name]

    def value(self, name: str) -> float | None:
        values = self.probes[name].values
        return values[0] if values else None


def _report(session: _Session, texts: Mapping[str, str], slow_s: float) -> ProbeReport:
    faults, remarks = _failures(session), []
    unsteady = _unsteady(session, texts)
    if unsteady:
        faults.append(f"not the same twice: {unsteady}. What is learnt from it cannot be repeated")
    batch_faults, batch_remarks = _together(session, texts, steady=not unsteady)
    worth, beats = _worth(session)
    missing_faults, missing_remarks = _without_reference(session, texts, beats)
    slowest = max(session.probes.values(), key=lambda probe: probe.seconds / max(1, len(probe.values)))
    seconds = slowest.seconds / max(1, len(slowest.values))
    if seconds > slow_s and slowest.fault is None:
        remarks.append(f"takes {seconds:.1f} s for one completion ({slowest.name})")
    if session.opened.style == "TRL" and not session.opened.takes_all:
        remarks.append("has no **kwargs: here it gets the columns it names, but TRL passes every column")
    if not beats:
        remarks.append(
            "in no layout does a right answer earn more than a wrong one: fine for a reward of format or length, and a fault in one of "
            "correctness (does it look for the answer where the model writes it?)"
        )
    return ProbeReport(
        title=f"{session.opened.where.removeprefix('reward ')}, called as {session.opened.style} does",
        form=session.form,
        probes=tuple(session.probes.values()),
        right_beats_wrong=beats,
        faults=(*faults, *batch_faults, *worth, *missing_faults),
        remarks=(*batch_remarks, *missing_remarks, *_forms(session, texts), *remarks),
    )


def _failures(session: _Session) -> list[str]:
    """What went wrong, once each, with the probes it happened on."""
    names: dict[str, list[str]] = {}
    for probe in session.probes.values():
        if probe.fault is not None:
            kind = probe.fault.split(" at index ")[0]
            names.setdefault(kind, []).append(probe.name)
    return [f"{kind}   (on: {'; '.join(where)})" for kind, where in names.items()]


def _unsteady(session: _Session, texts: Mapping[str, str]) -> str:
    """Probes that earned something else the second time."""
    changed = []
    for name, text in texts.items():
        first = session.probes[name]
        if first.fault is None and len(text) < 1000:
            again = session.call([text], session.form, session.row)
            if again.values != first.values:
                changed.append(f"{name} earned {_number(first.values[0])}, then {_shown(again)}")
    return "; ".join(changed[:2])


def _together(session: _Session, texts: Mapping[str, str], *, steady: bool) -> tuple[list[str], list[str]]:
    """Three completions in one call: as many values, and the same ones."""
    layout = next(iter(LAYOUTS))
    names = [f"right {layout}", f"wrong {layout}", _EMPTY]
    batch = session.ask("right, wrong and empty in one call", [texts[name] for name in names])
    alone = [session.probes[name].values for name in names]
    if batch.fault is not None:
        known = any(session.probes[name].fault for name in names)
        return ([] if known else [f"three completions in one call: {batch.fault}"]), []
    if steady and all(alone) and [values[0] for values in alone] != list(batch.values):
        return [], ['values depend on the other completions of the call: IsolatedReward(..., batch="all"), or it sees one at a time']
    return [], []


def _worth(session: _Session) -> tuple[list[str], bool]:
    """Faults in the order of right, wrong and unfinished completions, and whether right beats wrong."""
    faults, beaten = [], []
    for layout in LAYOUTS:
        right, bad = session.value(f"right {layout}"), session.value(f"wrong {layout}")
        if right is not None and bad is not None and right != bad:
            beaten.append(right > bad)
            if right < bad:
                faults.append(f"the wrong answer ({_number(bad)}) beats the right one ({_number(right)}) {layout}")
    beats = bool(beaten) and all(beaten)
    best = max((v for layout in LAYOUTS if (v := session.value(f"right {layout}")) is not None), default=0.0)
    for name in (_EMPTY, _THOUGHT, _CUT):
        value = session.value(name)
        if beats and value is not None and value >= best:
            faults.append(f"{name}: earns {_number(value)}, as much as the right answer")
    return faults, beats


def _without_reference(session: _Session, texts: Mapping[str, str], beats: bool) -> tuple[list[str], list[str]]:
    """A reference that is missing is a fault of the data: no value is right, and any value teaches something false."""
    text = texts[f"right {next(iter(LAYOUTS))}"]
    probe = session.ask("right without a reference", [text], **dict.fromkeys(_GOLD_COLUMNS))
    if probe.fault is not None or not beats or probe.values[0] is None:
        return [], []
    if probe.values[0] > 0:
        return [f"where the reference is missing an answer earns {_number(probe.values[0])}; return None there"], []
    return [], [f"where the reference is missing an answer earns {_number(probe.values[0])}; None would leave it out of training"]


def _forms(session: _Session, texts: Mapping[str, str]) -> list[str]:
    """Whether text and messages are worth the same."""
    if session.opened.style != "TRL":
        return []
    if session.form == "messages":
        return ["reads messages, not text: give it prompts that are messages"]
    name = f"right {next(iter(LAYOUTS))}"
    other = session.call([texts[name]], "messages", session.row)
    if session.probes[name].fault is not None or other.values == session.probes[name].values:
        return []
    seen = other.fault or " ".join(_number(value) for value in other.values)
    return [f"reads text, not messages ({seen} instead of {_number(session.value(name))}): give it prompts that are text"]


def _shown(probe: Probe) -> str:
    if probe.fault is not None:
        return probe.fault
    return f"{' '.join(f'{_number(value):>5}' for value in probe.values)}  {1000 * probe.seconds:8.1f} ms"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def printable(text: str) -> str:
    """A text as it can go to a terminal: what could move its cursor or change its title becomes an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

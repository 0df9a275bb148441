"""Rejection sampling (paper section 2.3.3): of several responses to every prompt keep those worth imitating, and say why not the others.

    sampled -> well-formed -> correct -> readable -> unique -> clean -> kept

:func:`candidates` takes sampled outputs apart, :func:`select` sends them through the stations and counts them (:class:`Funnel`), and
:func:`mix` adds general samples in the paper's proportion of 600k to 200k. Who is right is decided by a :data:`Grade`: by rules, and
by a generative judge where no rule can check.

Nothing depends on the order of the input: samples are put into an order of their own before anything is compared or counted.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from zero2r1.rewards.combine import RewardError
from zero2r1.rewards.config import RejectionSettings
from zero2r1.rewards.judge import FAILURES_IN_A_ROW, Judgement
from zero2r1.rewards.language import question_language
from zero2r1.rewards.readability import MALFORMED, RULES, LanguageShare, malformed, share_in_language, unreadable
from zero2r1.samples import Lineage, Rejection, Sample
from zero2r1.seeds import derive_seed
from zero2r1.template import parse_response, write_thinking
from zero2r1.types import Completion, Grader, Problem

Graded = tuple[bool | None, str]
"""Whether a response is right, and why; ``None`` when nobody could tell, which is not wrong."""
Grade = Callable[[Sequence[Sample]], list[Graded]]
"""One verdict per sample."""
Judge = Callable[[str, str, str], Judgement]
"""(question, reference, summary) -> judgement: ``partial(zero2r1.rewards.judge.judge, complete=...)``. Called from several threads."""

STATIONS: Mapping[str, tuple[str, ...]] = {
    "sampled": (),
    "well_formed": (MALFORMED,),
    "correct": ("wrong", "ungraded"),
    "readable": tuple(RULES),
    "unique": ("duplicate",),
    "clean": ("contaminated",),
    "kept": ("over_limit",),
}
"""The stations in order, each with the rules by which a sample fails to reach it."""

ORDERS: Mapping[str, Callable[[Sample, int], int]] = {
    "seeded": lambda sample, seed: derive_seed(seed, "rejection sampling", sample.id),
    "shortest": lambda sample, seed: len(sample.thinking or "") + len(sample.summary),
}
"""Which of a problem's samples are kept where there are too many, by ``settings.order``: the lowest, of equal ones the first sampled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Funnel:
    """How many samples reached each station, and how many each rule stopped.

    Raises:
        ValueError: a station is missing, a rule is not known, or the numbers do not add up.
    """

    reached: Mapping[str, int]
    rejected: Mapping[str, int]

    def __post_init__(self) -> None:
        if list(self.reached) != list(STATIONS):
            raise ValueError(f"a funnel has the stations {list(STATIONS)}, got {list(self.reached)}")
        unknown = set(self.rejected) - {rule for rules in STATIONS.values() for rule in rules}
        if unknown:
            raise ValueError(f"a funnel knows no rules {sorted(unknown)}")
        before = self.reached["sampled"]
        for station, count in self.reached.items():
            lost = sum(self.rejected.get(rule, 0) for rule in STATIONS[station])
            if before - lost != count:
                raise ValueError(f"{before} samples less {lost} rejected ones are not the {count} of station {station!r}")
            before = count

    def to_dict(self) -> dict[str, Any]:
        """For JSON: every station, and every rule that stopped something."""
        return {"reached": dict(self.reached), "rejected": {rule: count for rule, count in self.rejected.items() if count}}

    def render(self) -> str:
        """``sampled 4096 -> well-formed 4000 -> correct 2210 -> ... -> kept 1200``"""
        return " -> ".join(f"{station.replace('_', '-')} {count}" for station, count in self.reached.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What was kept and what was not. Both are in the order of the problems' ids."""

    kept: tuple[Sample, ...]
    rejected: tuple[Rejection, ...]
    funnel: Funnel


def candidates(
    problem: Problem, completions: Sequence[Completion], *, lineage: Lineage, think_open: bool = False
) -> list[Sample | Rejection]:
    """One sample per output, with the id ``problem.id#index``, or its rejection as ``malformed``.

    Malformed is what was cut off, what leaves its thinking open, and what lacks a thinking or a summary that says something; the whole
    text is the summary of its sample then, so that nothing is lost.

    Args:
        lineage: who wrote them and how they were sampled; each sample gets the seed of its completion.
        think_open: the prompt ended with ``<think>``, so the outputs start inside the thinking.
    """
    found: list[Sample | Rejection] = []
    for index, completion in enumerate(completions):
        sample = Sample(
            id=f"{problem.id}#{index}",
            problem=problem,
            thinking=None,
            summary=completion.text,
            lineage=replace(lineage, seed=completion.seed),
            measured={"tokens": float(len(completion.token_ids))},
        )
        cut = "cut off at the length limit" if completion.finish_reason == "length" else None
        fault = cut or malformed(completion.text, think_open=think_open)
        if fault is not None:
            found.append(Rejection(sample=sample, rule=MALFORMED, why=fault))
            continue
        parsed = parse_response(completion.text, think_open=think_open)
        found.append(replace(sample, thinking=parsed.thinking, summary=parsed.summary))
    return found


def grade_by_rules(grader: Grader, *, think_open: bool = False) -> Grade:
    """A grader of completions, such as ``World.accuracy_grader()``, over samples: right is a reward of 1.

    Args:
        think_open: the grader expects responses that start inside the thinking.
    """

    def grade(samples: Sequence[Sample]) -> list[Graded]:
        texts = [write_thinking(sample.thinking or "", sample.summary) for sample in samples]
        texts = [text.removeprefix("<think>") if think_open else text for text in texts]
        completions = [Completion(segments=(), text=text, finish_reason="stop", seed=0, policy_version=0) for text in texts]
        rewards = grader([sample.problem for sample in samples], completions)
        return [(None if r.value is None else r.value >= 1, str(r.details.get("why", f"the reward is {r.value}"))) for r in rewards]

    return grade


def grade_by_judge(judge: Judge, *, workers: int = 8) -> Grade:
    """A generative judge over samples; it is shown the summary and never the thinking, and equal cases once.

    ``None`` where there is no reference, where asking failed, and where the judge never came to a usable verdict.

    The function it returns raises:
        RewardError: the judge could not be asked 32 times in a row.
    """
    if workers < 1:
        raise ValueError(f"a judge needs at least 1 worker, got {workers}")

    def grade(samples: Sequence[Sample]) -> list[Graded]:
        cases = [(sample.problem.question, sample.problem.answer or "", sample.summary) for sample in samples]
        outcomes: dict[tuple[str, str, str], Graded] = {case: (None, "there is no reference answer") for case in cases}
        askable = [case for case in outcomes if case[1].strip()]
        in_a_row = 0
        with ThreadPoolExecutor(workers) as pool:
            for case, (outcome, failed) in zip(askable, pool.map(lambda case: _ask(judge, case), askable), strict=True):
                outcomes[case] = outcome
                in_a_row = in_a_row + 1 if failed else 0
                if in_a_row >= FAILURES_IN_A_ROW:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise RewardError(f"{in_a_row} times in a row {outcome[1]}. Is its endpoint up?")
        return [outcomes[case] for case in cases]

    return grade


def rules_then_judge(rules: Grade, judge: Grade | None, *, ruled: Collection[str]) -> Grade:
    """Rules where a problem has one, the judge for the rest.

    The rest are problems whose verifier is not among ``ruled``, and those whose reference the rule cannot read. Without a judge
    they stay ungraded.
    """

    def grade(samples: Sequence[Sample]) -> list[Graded]:
        verdicts: list[Graded] = [(None, f"no rule for the verifier {sample.problem.verifier!r}") for sample in samples]
        by_rule = [index for index, sample in enumerate(samples) if sample.problem.verifier in ruled]
        if by_rule:
            for index, verdict in zip(by_rule, rules([samples[index] for index in by_rule]), strict=True):
                verdicts[index] = verdict
        rest = [index for index, (right, _) in enumerate(verdicts) if right is None]
        if judge is None:
            return [(right, f"{why}, and there is no judge") if right is None else (right, why) for right, why in verdicts]
        if rest:
            for index, (right, why) in zip(rest, judge([samples[index] for index in rest]), strict=True):
                verdicts[index] = (right, f"{verdicts[index][1]}; {why}")
        return verdicts

    return grade


def select(
    sampled: Sequence[Sample | Rejection],
    *,
    grade: Grade,
    contaminated: Callable[[Sample], str | None],
    settings: RejectionSettings,
    language_share: LanguageShare = share_in_language,
) -> Selection:
    """Send candidates through the stations. Every sample is either kept or rejected by one rule with a reason.

    - correct: ``grade`` says right. What could not be graded is ``ungraded``, never ``wrong``.
    - readable: no rule of :mod:`zero2r1.rewards.readability` is broken; the first broken one rejects, the reason lists all.
    - unique: per problem, of samples equal but for white space and case (or as similar as ``settings.near_duplicate``) the first
      sampled, which is the one with the lowest index in its id.
    - clean: ``contaminated`` finds no overlap with evaluation data; it returns the reason where it does.
    - kept: per problem ``settings.kept_per_prompt``, the lowest in :data:`ORDERS`. The default draws lots by the seed, so that no
      length is preferred.

    The order of ``sampled`` changes nothing.

    Args:
        sampled: what :func:`candidates` returned, of any number of problems.

    Raises:
        ValueError: an id occurs twice, a rejection by another rule than ``malformed``, or ``grade`` returned another number of verdicts.
    """
    samples, rejected = _taken_apart(sampled)
    reached = {"sampled": len(sampled), "well_formed": len(samples)}
    stations: tuple[tuple[str, Station], ...] = (
        ("correct", lambda samples: _correct(samples, grade)),
        ("readable", lambda samples: [(sample, _unreadable(sample, settings, language_share)) for sample in samples]),
        ("unique", lambda samples: _unique(samples, settings)),
        ("clean", lambda samples: [(sample, _tagged("contaminated", contaminated(sample))) for sample in samples]),
        ("kept", lambda samples: _limited(samples, settings)),
    )
    for name, station in stations:
        outcomes = station(samples)
        rejected += [Rejection(sample=sample, rule=fault[0], why=fault[1]) for sample, fault in outcomes if fault is not None]
        samples = [sample for sample, fault in outcomes if fault is None]
        reached[name] = len(samples)
    return Selection(
        kept=tuple(sample.after("kept by rejection sampling") for sample in samples),
        rejected=tuple(sorted(rejected, key=lambda rejection: _place(rejection.sample))),
        funnel=Funnel(reached=reached, rejected=dict(Counter(rejection.rule for rejection in rejected))),
    )


def mix(
    reasoning: Sequence[Sample], general: Sequence[Sample], *, shares: tuple[int, int] = (600, 200), seed: int, allow_fewer: bool = False
) -> list[Sample]:
    """All reasoning samples and so many general ones that they stand as ``shares``, shuffled; the seed decides which and in what order.

    The order of the input changes nothing.

    Raises:
        ValueError: an id occurs twice, shares without a reasoning part, or too few general samples, unless ``allow_fewer``.
    """
    if shares[0] < 1 or shares[1] < 0:
        raise ValueError(f"shares are (reasoning, general) with reasoning at least 1 and general at least 0, got {shares}")
    _refuse_equal_ids([*reasoning, *general])
    wanted = (2 * len(reasoning) * shares[1] + shares[0]) // (2 * shares[0])  # rounded, a half upwards
    missing = wanted - len(general)
    if missing > 0 and not allow_fewer:
        raise ValueError(
            f"{len(reasoning)} reasoning samples at {shares[0]}:{shares[1]} need {wanted} general ones, there are {len(general)}: "
            f"{missing} missing. Add them, or allow fewer"
        )
    taken = sorted(general, key=lambda sample: derive_seed(seed, "general", sample.id))[:wanted]
    return sorted([*reasoning, *taken], key=lambda sample: derive_seed(seed, "mix", sample.id))


Fault = tuple[str, str]
"""The rule that rejects a sample, and why."""
Station = Callable[[list[Sample]], list[tuple[Sample, Fault | None]]]


def _taken_apart(sampled: Sequence[Sample | Rejection]) -> tuple[list[Sample], list[Rejection]]:
    """The well-formed samples in the order of :func:`_place`, and the rejections."""
    samples = sorted((candidate for candidate in sampled if isinstance(candidate, Sample)), key=_place)
    rejections = [candidate for candidate in sampled if isinstance(candidate, Rejection)]
    _refuse_equal_ids([*samples, *(rejection.sample for rejection in rejections)])
    other = sorted({rejection.rule for rejection in rejections} - {MALFORMED})
    if other:
        raise ValueError(f"candidates can only be rejected as {MALFORMED!r} before they are selected from, found {other}")
    return samples, rejections


def _place(sample: Sample) -> tuple[str, int, str]:
    """``p#2`` stands before ``p#10``."""
    return sample.problem.id, len(sample.id), sample.id


def _refuse_equal_ids(samples: Sequence[Sample]) -> None:
    twice = [name for name, count in Counter(sample.id for sample in samples).items() if count > 1]
    if twice:
        raise ValueError(f"{len(twice)} ids occur more than once, the first is {twice[0]!r}; ids must be unique in a data set")


def _ask(judge: Judge, case: tuple[str, str, str]) -> tuple[Graded, bool]:
    """The verdict, and whether the judge could not be asked."""
    try:
        said = judge(*case)
    except Exception as error:  # a trust boundary: what a user's judge raises concerns this one sample
        return (None, f"the judge could not be asked: {type(error).__name__}: {error}"), True
    undecided = said.verdict is None and said.attempts > 0  # without an attempt, the answer was not worth asking about
    return (None if undecided else said.correct, said.why), False


def _correct(samples: list[Sample], grade: Grade) -> list[tuple[Sample, Fault | None]]:
    verdicts = grade(samples)
    if len(verdicts) != len(samples):
        raise ValueError(f"the grade function returned {len(verdicts)} verdicts for {len(samples)} samples")
    outcomes: list[tuple[Sample, Fault | None]] = []
    for sample, (right, why) in zip(samples, verdicts, strict=True):
        if right is None:
            outcomes.append((sample, ("ungraded", why)))
            continue
        graded = replace(sample, measured={**sample.measured, "accuracy": float(right)})
        outcomes.append((graded.after(f"graded: {why}"), None) if right else (graded, ("wrong", why)))
    return outcomes


def _unreadable(sample: Sample, settings: RejectionSettings, language_share: LanguageShare) -> Fault | None:
    problem = sample.problem
    language = problem.language or question_language(problem.question) or ""
    broken = unreadable(sample.thinking or "", sample.summary, language, settings.readability, language_share=language_share)
    return (next(iter(broken)), "; ".join(f"{rule}: {why}" for rule, why in broken.items())) if broken else None


def _unique(samples: list[Sample], settings: RejectionSettings) -> list[tuple[Sample, Fault | None]]:
    outcomes: list[tuple[Sample, Fault | None]] = []
    first: dict[tuple[str, str], str] = {}
    others: defaultdict[str, list[tuple[str, frozenset[tuple[str, ...]]]]] = defaultdict(list)
    for sample in samples:
        normal = " ".join(f"{sample.thinking}\n{sample.summary}".casefold().split())
        earlier = first.setdefault((sample.problem.id, normal), sample.id)
        fault = None if earlier == sample.id else ("duplicate", f"equal to {earlier} but for white space and case")
        if fault is None and settings.near_duplicate is not None:
            grams = _grams(normal, settings.near_duplicate_n)
            known = others[sample.problem.id]
            shares = [(len(grams & theirs) / len(grams | theirs), name) for name, theirs in known]
            near = next(((share, name) for share, name in shares if share >= settings.near_duplicate), None)
            if near is None:
                known.append((sample.id, grams))
            else:
                fault = ("duplicate", f"{near[0]:.0%} of its and {near[1]}'s {settings.near_duplicate_n}-grams are common to both")
        outcomes.append((sample, fault))
    return outcomes


def _grams(text: str, n: int) -> frozenset[tuple[str, ...]]:
    """The n-grams of words, Han and kana one by one; a shorter text is one by itself."""
    words = re.findall(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+|\S", text)
    return frozenset(tuple(words[start : start + n]) for start in range(max(1, len(words) - n + 1)))


def _limited(samples: list[Sample], settings: RejectionSettings) -> list[tuple[Sample, Fault | None]]:
    order, limit = ORDERS[settings.order], settings.kept_per_prompt
    groups: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.problem.id].append(sample)
    chosen = {s.id for group in groups.values() for s in sorted(group, key=lambda s: order(s, settings.seed))[:limit]}
    over = f"{limit} other samples of this problem are kept"
    return [(sample, None if sample.id in chosen else ("over_limit", over)) for sample in samples]


def _tagged(rule: str, why: str | None) -> Fault | None:
    return None if why is None else (rule, why)

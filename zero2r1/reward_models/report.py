"""How good a reward model is on held-out data: accuracy, calibration, and how much of it is length alone. Pure functions.

A model that only prefers the shorter answer can look like one that knows harm; so every accuracy stands beside that of length alone,
whose rule (longer or shorter) is chosen on the training data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from zero2r1.reward_models.config import Kind
from zero2r1.seeds import derive_seed

BINS = 10
RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredPair:
    """A preference with the scores of its two responses and their lengths in words."""

    chosen: float
    rejected: float
    chosen_words: int
    rejected_words: int
    prompt: str
    """Pairs with the same one are resampled together."""

    @property
    def margin(self) -> float:
        return self.chosen - self.rejected

    @property
    def longer(self) -> int:
        """By how many words the chosen response is longer."""
        return self.chosen_words - self.rejected_words


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredLabel:
    """A labelled response with its score and its length in words."""

    score: float
    safe: bool
    words: int
    prompt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The accuracy on some of the data; ``None`` where there is none of that kind."""

    count: int
    accuracy: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationBin:
    """Cases whose predicted probability lies in a tenth: what was predicted on average, and how often it came true."""

    low: float
    high: float
    count: int
    predicted: float | None
    happened: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthRule:
    """Judging by length alone: ``longer`` or ``shorter`` wins; for single responses, than ``words``."""

    prefers: Literal["longer", "shorter"]
    words: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardReport:
    """What was measured on held-out data."""

    kind: Kind
    count: int
    accuracy: float
    low: float
    high: float
    """95 % interval of the accuracy, by bootstrap over prompts."""
    auc: float | None
    """Of labels: the chance that a safe response scores above an unsafe one."""
    calibration_error: float
    bins: tuple[CalibrationBin, ...]
    length_correlation: float | None
    """Of margin and length difference (pairs), of score and length (labels); ``None`` where one of them never varies."""
    chosen_longer: Part | None
    chosen_shorter: Part | None
    length_rule: LengthRule
    length_accuracy: float
    """What the length rule, chosen on training data, gets right here."""
    mean: float
    std: float
    """Of all scores."""

    arrays: Mapping[str, tuple[float, ...]]
    """``accuracy`` and ``length_only`` of every case, in the order given: what claims and bootstraps are made of."""

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "arrays": {name: list(values) for name, values in self.arrays.items()}}

    def figures(self) -> dict[str, float]:
        """The single numbers by name."""
        named = {
            "accuracy": self.accuracy,
            "accuracy/low": self.low,
            "accuracy/high": self.high,
            "auc": self.auc,
            "length_only": self.length_accuracy,
            "length_correlation": self.length_correlation,
            "calibration_error": self.calibration_error,
        }
        return {name: value for name, value in named.items() if value is not None}

    def lines(self) -> list[str]:
        """The figures for a person."""
        what = "pairs, chosen above rejected" if self.kind == "preference" else "labels, right at P(safe) = 0.5"
        alone = f"{self.length_rule.prefers} wins" + ("" if self.length_rule.words is None else f" than {self.length_rule.words:g} words")
        lines = [f"accuracy     {self.accuracy:.3f} [{self.low:.3f}, {self.high:.3f}]  {self.count} {what}"]
        lines += [] if self.auc is None else [f"AUC          {self.auc:.3f}"]
        lines.append(f"length only  {self.length_accuracy:.3f}  ({alone}, chosen on training data)")
        correlation = "-" if self.length_correlation is None else f"{self.length_correlation:+.3f}"
        lines.append(f"length bias  correlation {correlation}")
        for name, part in (("longer", self.chosen_longer), ("shorter", self.chosen_shorter)):
            if part is not None and part.accuracy is not None:
                lines.append(f"             {part.accuracy:.3f} where the chosen one is {name} ({part.count})")
        lines.append(f"calibration  expected error {self.calibration_error:.3f}")
        lines.append(f"scores       mean {self.mean:.3f}, standard deviation {self.std:.3f}")
        return lines


def report_pairs(pairs: Sequence[ScoredPair], rule: LengthRule, *, seed: int = 0) -> RewardReport:
    """The report of held-out pairs; ``rule`` comes from :func:`length_rule_of_pairs` on training data.

    Raises:
        ValueError: there are no pairs.
    """
    if not pairs:
        raise ValueError("nothing is held out, so nothing can be measured")
    won = [credit(pair.margin) for pair in pairs]
    low, high = interval(won, [pair.prompt for pair in pairs], seed=seed)
    sure = [float(1 / (1 + np.exp(-pair.margin))) for pair in pairs]
    # A pair has no first response by nature: read in both orders, so that a bin holds wins and losses.
    error, bins = calibration([*sure, *(1 - p for p in sure)], [True] * len(sure) + [False] * len(sure))
    by_rule = [by_length(pair, rule) for pair in pairs]
    scores = [score for pair in pairs for score in (pair.chosen, pair.rejected)]
    return RewardReport(
        kind="preference",
        count=len(pairs),
        accuracy=float(np.mean(won)),
        low=low,
        high=high,
        auc=None,
        calibration_error=error,
        bins=bins,
        length_correlation=correlation([pair.margin for pair in pairs], [pair.longer for pair in pairs]),
        chosen_longer=_part([credit(pair.margin) for pair in pairs if pair.longer > 0]),
        chosen_shorter=_part([credit(pair.margin) for pair in pairs if pair.longer < 0]),
        length_rule=rule,
        length_accuracy=float(np.mean(by_rule)),
        mean=float(np.mean(scores)),
        std=float(np.std(scores)),
        arrays={"accuracy": tuple(won), "length_only": tuple(by_rule)},
    )


def report_labels(labels: Sequence[ScoredLabel], rule: LengthRule, *, seed: int = 0) -> RewardReport:
    """The report of held-out labels; ``rule`` comes from :func:`length_rule_of_labels` on training data.

    Raises:
        ValueError: there are no labels.
    """
    if not labels:
        raise ValueError("nothing is held out, so nothing can be measured")
    right = [credit(label.score if label.safe else -label.score) for label in labels]
    low, high = interval(right, [label.prompt for label in labels], seed=seed)
    error, bins = calibration([float(1 / (1 + np.exp(-label.score))) for label in labels], [label.safe for label in labels])
    scores = [label.score for label in labels]
    by_rule = [_label_by_length(label.words, label.safe, rule) for label in labels]
    return RewardReport(
        kind="safety",
        count=len(labels),
        accuracy=float(np.mean(right)),
        low=low,
        high=high,
        auc=auc(scores, [label.safe for label in labels]),
        calibration_error=error,
        bins=bins,
        length_correlation=correlation(scores, [label.words for label in labels]),
        chosen_longer=None,
        chosen_shorter=None,
        length_rule=rule,
        length_accuracy=float(np.mean(by_rule)),
        mean=float(np.mean(scores)),
        std=float(np.std(scores)),
        arrays={"accuracy": tuple(right), "length_only": tuple(by_rule)},
    )


def credit(margin: float) -> float:
    """1 for a win, a half for a tie."""
    return 0.5 if margin == 0 else float(margin > 0)


def by_length(pair: ScoredPair, rule: LengthRule) -> float:
    """What the length rule earns on a pair."""
    return credit(pair.longer if rule.prefers == "longer" else -pair.longer)


def length_rule_of_pairs(longer: Sequence[int]) -> LengthRule:
    """The better of the two rules on training pairs, given by how many words each chosen response is longer; ``longer`` on a tie."""
    balance = sum(credit(difference) for difference in longer) - len(longer) / 2
    return LengthRule(prefers="longer" if balance >= 0 else "shorter")


def length_rule_of_labels(words: Sequence[int], safe: Sequence[bool]) -> LengthRule:
    """The better of ``longer than the median is safe`` and ``shorter is safe`` on training labels; ``longer`` on a tie."""
    middle = float(np.median(words)) if words else 0.0
    rule = LengthRule(prefers="longer", words=middle)
    right = sum(_label_by_length(count, label, rule) for count, label in zip(words, safe, strict=True))
    return rule if right >= len(words) / 2 else LengthRule(prefers="shorter", words=middle)


def _label_by_length(words: int, safe: bool, rule: LengthRule) -> float:
    assert rule.words is not None
    above = words - rule.words if rule.prefers == "longer" else rule.words - words
    return credit(above if safe else -above)


def interval(values: Sequence[float], clusters: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """95 % interval of the mean of ``values`` by bootstrap; values of one cluster are drawn together."""
    number = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    of = np.array([number[cluster] for cluster in clusters])
    sums, counts = np.bincount(of, weights=np.asarray(values, dtype=float)), np.bincount(of)
    random = np.random.Generator(np.random.Philox(key=derive_seed(seed, "bootstrap")))
    means = []
    for _ in range(resamples):
        drawn = random.integers(len(sums), size=len(sums))
        means.append(sums[drawn].sum() / counts[drawn].sum())
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def auc(scores: Sequence[float], positive: Sequence[bool]) -> float | None:
    """The chance that a positive one scores above a negative one, ties a half; ``None`` where one side is empty.

    Example: positives 3 and 1, negative 2: one of two comparisons is won, 0.5.
    """
    values, sides = np.asarray(scores, dtype=float), np.asarray(positive, dtype=bool)
    if sides.all() or not sides.any():
        return None
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # ties share the mean of their ranks
    wins = ranks[sides].sum() - sides.sum() * (sides.sum() + 1) / 2
    return float(wins / (sides.sum() * (~sides).sum()))


def calibration(probabilities: Sequence[float], happened: Sequence[bool]) -> tuple[float, tuple[CalibrationBin, ...]]:
    """The expected calibration error over ten equal bins, and the bins: sum over bins of share * |predicted - happened|."""
    predicted, came = np.asarray(probabilities, dtype=float), np.asarray(happened, dtype=float)
    place = np.minimum((predicted * BINS).astype(int), BINS - 1)
    bins: list[CalibrationBin] = []
    error = 0.0
    for number in range(BINS):
        inside = place == number
        count = int(inside.sum())
        said, true = (float(predicted[inside].mean()), float(came[inside].mean())) if count else (None, None)
        bins.append(CalibrationBin(low=number / BINS, high=(number + 1) / BINS, count=count, predicted=said, happened=true))
        if said is not None and true is not None:
            error += count / len(predicted) * abs(said - true)
    return error, tuple(bins)


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson's; ``None`` where one side never varies."""
    x, y = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if x.std() == 0 or y.std() == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def _part(won: Sequence[float]) -> Part:
    return Part(count=len(won), accuracy=float(np.mean(won)) if won else None)

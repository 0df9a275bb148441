"""GRPO written a second time: float64 NumPy, loops as the formulas read, gradients by finite differences.

Nothing here shares a line with zero2r1. A policy is a table of logits [T, V]; token t of the table belongs to one output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Output:
    """One output o_i: rows of the logit table, the tokens it holds, and what is fixed about it."""

    group: int
    rows: tuple[int, ...]
    tokens: tuple[int, ...]
    advantage: float
    old: tuple[float, ...]
    ref: tuple[float, ...]
    trained: tuple[bool, ...]


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def advantages(rewards: Sequence[float], ddof: int, epsilon: float) -> list[float]:
    values = np.asarray(rewards, dtype=np.float64)
    return list((values - values.mean()) / (values.std(ddof=ddof) + epsilon))


def kl_term(kind: str, logp: float, ref: float, rho: float) -> float:
    x = ref - logp
    k3 = float(np.exp(x) - x - 1)
    return {"k1": -x, "k2": x * x / 2, "k3": k3, "k3_corrected": rho * k3}[kind]


def loss(
    logits: Array,
    outputs: Sequence[Output],
    *,
    ratio: str,
    kl: str,
    beta: float,
    clip_low: float,
    clip_high: float,
    aggregation: str,
    cap: int,
    surrogate: str = "clipped",
    held: Array | None = None,
    samplers: Sequence[Sequence[float]] | None = None,
    correction_cap: float | None = None,
    entropy_bonus: float = 0.0,
) -> float:
    """-J of one mini-batch.

    ``held``: the table of logits at which what stands under a stop-gradient is evaluated. ``samplers``: log-probabilities of the engine,
    an output each; with them every token weighs min(pi_old / pi_sampler, correction_cap).
    """
    sums: list[float] = []
    lengths: list[int] = []
    for number, output in enumerate(outputs):
        logp = [log_softmax(logits[row])[token] for row, token in zip(output.rows, output.tokens, strict=True)]
        kept = [t for t, trained in enumerate(output.trained) if trained]
        moved = [logp[t] - output.old[t] for t in kept]
        total = 0.0
        for t, change in zip(kept, moved, strict=True):
            exponent = {"token": change, "sequence": sum(moved), "sequence_mean": sum(moved) / len(moved)}[ratio]
            rho = float(np.exp(exponent))
            clipped = min(max(rho, 1 - clip_low), 1 + clip_high)
            if surrogate == "clipped":
                gain = min(rho * output.advantage, clipped * output.advantage)
            else:
                table = logits if held is None else held
                then = float(np.exp(log_softmax(table[output.rows[t]])[output.tokens[t]] - output.old[t]))
                weight = {"clipped_weight": min(max(then, 1 - clip_low), 1 + clip_high), "score": 1.0}[surrogate]
                gain = weight * output.advantage * logp[t]
            if samplers is not None and correction_cap is not None:
                gain *= min(float(np.exp(output.old[t] - samplers[number][t])), correction_cap)
            p = np.exp(log_softmax(logits[output.rows[t]]))
            total += -gain + beta * kl_term(kl, logp[t], output.ref[t], rho) + entropy_bonus * float((p * np.log(p)).sum())
        sums.append(total)
        lengths.append(len(kept))
    groups = sorted({output.group for output in outputs})
    if aggregation == "sequence_mean":
        of_group = [[s / n for s, n, o in zip(sums, lengths, outputs, strict=True) if o.group == g] for g in groups]
        return float(np.mean([np.mean(values) for values in of_group]))
    if aggregation == "token_mean":
        return sum(sums) / sum(lengths)
    if aggregation == "output_sum":
        return float(np.mean(sums))
    return sum(sums) / (len(outputs) * cap)


def gradient(function: Callable[[Array], float], at: Array, step: float = 1e-3) -> Array:
    """The five-point stencil: error of order step^4, about 1e-12 here."""
    out = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        values = []
        for times in (-2, -1, 1, 2):
            moved = at.copy()
            moved[index] += times * step
            values.append(function(moved))
        out[index] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
    return out

"""How token losses become one number, as a weight per token: ``loss = sum_t weight_t * token_loss_t``.

Weights are computed once for a whole mini-batch. Micro-batches, gradient accumulation and data parallelism then only
split a sum, which cannot change it. Every variant is one function and one entry of :data:`AGGREGATIONS`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence


def sequence_mean(lengths: Sequence[int], groups: Sequence[int], cap: int) -> list[float]:
    """1/|o_i| within an output, 1/G within a group, then the mean over groups: the paper's form.

    Args:
        lengths: trained tokens |o_i| of each output; 0 is allowed and weighs 0.
        groups: the group each output belongs to.
        cap: the largest length an output may have.

    Returns:
        The weight of each token of each output.
    """
    size = Counter(groups)
    return [0.0 if length == 0 else 1.0 / (len(size) * size[group] * length) for length, group in zip(lengths, groups, strict=True)]


def token_mean(lengths: Sequence[int], groups: Sequence[int], cap: int) -> list[float]:
    """Every token of the mini-batch weighs the same (DAPO): long outputs count for more than short ones."""
    total = sum(lengths)
    return [0.0 if total == 0 else 1.0 / total] * len(lengths)


def constant(lengths: Sequence[int], groups: Sequence[int], cap: int) -> list[float]:
    """Divide the sum by outputs times the cap (Dr. GRPO): an output's weight does not depend on any length."""
    return [1.0 / (len(lengths) * cap)] * len(lengths)


def output_sum(lengths: Sequence[int], groups: Sequence[int], cap: int) -> list[float]:
    """Tokens of an output are summed and outputs averaged: the gradient of log pi(o_i|q), as RLOO and REINFORCE write it."""
    return [1.0 / len(lengths)] * len(lengths)


AggregationFn = Callable[[Sequence[int], Sequence[int], int], list[float]]
AGGREGATIONS: Mapping[str, AggregationFn] = {
    "sequence_mean": sequence_mean,
    "token_mean": token_mean,
    "constant": constant,
    "output_sum": output_sum,
}

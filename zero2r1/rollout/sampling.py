"""Drawing one token a row from logits, exactly and reproducibly. Pure functions.

A token is the inverse of the cumulative distribution at a uniform number that belongs to (seed, position) alone. So a
sample does not depend on its neighbours in the batch, except where rounding moves the distribution by about 1e-7.

Shapes: R rows, V vocabulary, K blocks.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 256


def uniforms(seed: int, count: int) -> np.ndarray:
    """``count`` float64 in [0, 1): the random numbers of one sample, from its seed alone (counter-based)."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def sample_tokens(logits: Tensor, temperatures: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Draw a token a row and its log-probability at the row's temperature.

    Args:
        logits: [R, V] float32; -inf where a token is excluded.
        temperatures: [R]; 0 means the most likely token, with its log-probability at temperature 1.
        uniform: [R] float64 in [0, 1).

    Returns:
        tokens [R], log-probabilities [R] float32.
    """
    greedy, divisors = _tempered(logits, temperatures)
    # A pass over [R, V] saved where it changes nothing, and another; a GPU would wait for the answers to both questions.
    scaled = logits if bool((divisors == 1).all()) else logits / divisors
    return _draw(scaled, uniform, greedy if bool(greedy.any()) else None)


def sample_unasked(logits: Tensor, temperatures: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """The same numbers as :func:`sample_tokens`, by operations that depend on no value: nothing is asked of the device."""
    greedy, divisors = _tempered(logits, temperatures)
    return _draw(logits / divisors, uniform, greedy)


def _tempered(logits: Tensor, temperatures: Tensor) -> tuple[Tensor, Tensor]:
    greedy = temperatures == 0
    return greedy, torch.where(greedy, 1.0, temperatures)[:, None].to(logits.dtype)


def _draw(scaled: Tensor, uniform: Tensor, greedy: Tensor | None) -> tuple[Tensor, Tensor]:
    scaled = scaled - scaled.amax(-1, keepdim=True)
    probabilities = scaled.exp()  # times a constant a row, which inverse_cdf does not mind
    tokens = inverse_cdf(probabilities, uniform)
    if greedy is not None:
        tokens = torch.where(greedy, scaled.argmax(-1), tokens)
    return tokens, scaled.gather(-1, tokens[:, None])[:, 0] - probabilities.sum(-1).log()


def inverse_cdf(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The token whose interval of the cumulative distribution holds ``uniform``; never one of probability 0.

    Rows need not sum to one: ``uniform`` is taken as a share of the row's sum.

    Two levels, blocks then tokens: a single running sum over 100,000 float32 entries would lose the digits that the
    sampler and the trainer must agree on, and is slower.
    """
    rows = torch.arange(probabilities.shape[0], device=probabilities.device)
    blocks = F.pad(probabilities, (0, -probabilities.shape[1] % BLOCK)).view(len(rows), -1, BLOCK)
    block_cdf = blocks.sum(-1).cumsum(-1, dtype=torch.float64)
    target = uniform * block_cdf[:, -1]
    block = _first_above(block_cdf, target)
    before = torch.where(block > 0, block_cdf[rows, (block - 1).clamp(min=0)], 0.0)
    token_cdf = blocks[rows, block].cumsum(-1, dtype=torch.float64)
    return block * BLOCK + _first_above(token_cdf, target - before)


def _first_above(cdf: Tensor, target: Tensor) -> Tensor:
    """First index with cdf > target, or the last index at which the cdf still rises when rounding leaves none."""
    index = (cdf <= target[:, None]).sum(-1)
    return index.minimum((cdf < cdf[:, -1:]).sum(-1))


def keep_top(logits: Tensor, top_p: float, top_k: int | None) -> Tensor:
    """Logits [R, V] with everything outside the nucleus, or outside the k most likely tokens, set to -inf."""
    kept = logits
    if top_k is not None and top_k < logits.shape[-1]:
        kept = kept.masked_fill(kept < kept.topk(top_k, dim=-1).values[:, -1:], float("-inf"))
    if top_p < 1:
        ordered, order = kept.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(-1)
        outside = probabilities.cumsum(-1) - probabilities >= top_p
        kept = kept.masked_fill(outside.scatter(-1, order, outside), float("-inf"))
    return kept

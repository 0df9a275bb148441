"""The two losses of section 2.3.4. Pure: scores in, one number out. The paper prints neither formula.

Shapes: N preferences or labels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bradley_terry(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Mean of -log sigmoid(s_chosen - s_rejected); both [N]. Bradley and Terry's model of who wins, with scores as log-strengths.

    Example: scores 1 and 0 give -log(1 / (1 + e^-1)) = 0.3133; equal scores give log 2.
    """
    if chosen.shape != rejected.shape:
        raise ValueError(f"every chosen response needs its rejected one: {tuple(chosen.shape)} and {tuple(rejected.shape)}")
    return -F.logsigmoid(chosen - rejected).mean()


def pointwise(scores: Tensor, safe: Tensor) -> Tensor:
    """Mean cross-entropy of P(safe) = sigmoid(score); ``scores`` [N], ``safe`` [N] holds 1 for safe and 0 for unsafe.

    Example: score 0 costs log 2 either way; score 2 costs log(1 + e^-2) = 0.1269 when safe and 2.1269 when not.
    """
    if scores.shape != safe.shape:
        raise ValueError(f"every score needs its label: {tuple(scores.shape)} and {tuple(safe.shape)}")
    return F.binary_cross_entropy_with_logits(scores, safe.to(scores.dtype))

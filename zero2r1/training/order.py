"""Which examples a step sees: passes over all of them, each in an order that is a function of the seed and the number of the pass."""

from __future__ import annotations

import numpy as np

from zero2r1.seeds import derive_seed


def batch_of_step(count: int, step: int, *, batch_size: int, seed: int, purpose: str) -> list[int]:
    """Indices of the examples of an update: every epoch all of them once, in an order of its own; its last batch may be smaller.

    ``purpose`` keeps orders apart that are drawn from the same seed.
    """
    epoch, position = divmod(step, -(-count // batch_size))
    return _order(count, epoch, seed, purpose)[position * batch_size : (position + 1) * batch_size]


def draw_of_step(count: int, step: int, *, size: int, seed: int, purpose: str) -> list[int]:
    """Indices of the problems of a step, always ``size`` of them: a step may reach into the next pass, or over several."""
    orders: dict[int, list[int]] = {}
    chosen: list[int] = []
    for position in range(step * size, (step + 1) * size):
        epoch, index = divmod(position, count)
        if epoch not in orders:
            orders[epoch] = _order(count, epoch, seed, purpose)
        chosen.append(orders[epoch][index])
    return chosen


def _order(count: int, epoch: int, seed: int, purpose: str) -> list[int]:
    order: list[int] = np.random.Generator(np.random.Philox(key=derive_seed(seed, purpose, epoch))).permutation(count).tolist()
    return order

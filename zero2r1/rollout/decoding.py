"""One step of decoding for all active rows: one token more for each.

Two ways to the same numbers. :class:`ExactDecoder` computes the active rows and the positions in use and nothing else: best where
arithmetic is dear. :class:`BucketDecoder` computes rows and positions rounded up to a bucket, by operations that ask nothing of the
device: best where launching them is dear, because the few buckets there are can be captured as CUDA graphs and played again.

Shapes: R rows of a bucket.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from zero2r1.rollout.kv_cache import BucketAttention, DecodeAttention
from zero2r1.rollout.rows import Done, Rows
from zero2r1.rollout.sampling import sample_unasked

LEAST_POSITIONS = 64
"""The smallest bucket of positions."""

Forward = Callable[[Tensor, Tensor, Any], Tensor]
"""Token ids, their positions, an ``AttentionLayout`` -> logits in float32."""


class Decoder(Protocol):
    """Decodes the rows it was made for."""

    def step(self) -> list[Done]:
        """Append a token to every active row; remove and return what finished."""
        ...


class ExactDecoder:
    """The active rows, at the positions that are in use."""

    def __init__(self, rows: Rows, forward: Forward) -> None:
        self._rows, self._forward = rows, forward

    def step(self) -> list[Done]:
        """See :class:`Decoder`."""
        rows = self._rows
        lengths = rows.lengths[: rows.active]
        layout = DecodeAttention(rows.cache, lengths, rows.longest)
        logits = self._forward(rows.last_tokens[: rows.active], lengths, layout)
        lengths += 1
        return rows.record(0, logits)


@dataclass(frozen=True, slots=True)
class Bucket:
    """The shape of a padded step."""

    rows: int
    positions: int


def bucket_of(rows: int, positions: int, *, most_rows: int, most_positions: int) -> Bucket:
    """The smallest bucket that holds so many: rows 1, 2, 4, 8, ...; positions 64, 96, 128, 192, 256, 384, ...

    So at most half of what is computed is padding, or a third of the positions, and buckets grow with the logarithms of both.
    """
    power = 1 << (rows - 1).bit_length()
    upper = max(LEAST_POSITIONS, 1 << (positions - 1).bit_length())
    between = upper * 3 // 4
    fitting = between if positions <= between and between > LEAST_POSITIONS else upper
    return Bucket(min(power, most_rows), min(fitting, most_positions))


class StaticState:
    """The rows' tensors, and what a padded step needs besides, at addresses that stay."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.active = torch.zeros((), dtype=torch.long, device=rows.lengths.device)
        self.over = torch.zeros(rows.cache.rows, dtype=torch.bool, device=rows.lengths.device)


def decode_step(forward: Forward, state: StaticState, bucket: Bucket) -> None:
    """One token more for the first ``state.active`` rows of a bucket; ``state.over`` says which of them are done by it.

    Rows beyond the active ones compute too, as rows of length 0. What they write lies at the first place of rows that nobody occupies,
    where the next occupant writes before it reads.
    """
    rows, part = state.rows, slice(bucket.rows)
    live = torch.arange(bucket.rows, device=state.over.device) < state.active
    lengths, counts = rows.lengths[part] * live, rows.counts[part] * live
    layout = BucketAttention(rows.cache, lengths, bucket.positions)
    logits = forward(rows.last_tokens[part] * live, lengths, layout)
    place = counts[:, None]
    tokens, logprobs = sample_unasked(logits, rows.temperatures[part], rows.uniforms[part].gather(1, place)[:, 0])
    rows.tokens[part].scatter_(1, place, tokens[:, None])
    rows.logprobs[part].scatter_(1, place, logprobs[:, None])
    rows.last_tokens[part].copy_(tokens)
    rows.lengths[part].copy_(lengths + live)
    rows.counts[part].copy_(counts + live)
    stopped = (tokens[:, None] == rows.stops[part]).any(-1)
    state.over[part].copy_(stopped | (counts + live >= rows.limits[part]))


class BucketDecoder:
    """Padded steps, captured where ``capture`` says so. Rows that sample from a cut distribution are decoded exactly meanwhile."""

    def __init__(self, rows: Rows, forward: Forward, *, capture: bool) -> None:
        self._rows, self._exact, self._state = rows, ExactDecoder(rows, forward), StaticState(rows)
        step: Callable[[Bucket], None] = partial(decode_step, forward, self._state)
        self._run = CapturedSteps(step) if capture else step

    def step(self) -> list[Done]:
        """See :class:`Decoder`."""
        rows, cache = self._rows, self._rows.cache
        if rows.cut:
            return self._exact.step()
        self._state.active.fill_(rows.active)
        self._run(bucket_of(rows.active, rows.longest + 1, most_rows=cache.rows, most_positions=cache.positions))
        return rows.drawn(0, self._state.over[: rows.active].tolist())  # the one thing that is asked of the device


class CapturedSteps:
    """Steps as CUDA graphs, one a bucket, in one pool of memory: they never run at the same time, and leave nothing in it.

    A bucket's first step runs as it is, so that kernels are loaded and chosen; its second is captured.
    """

    def __init__(self, step: Callable[[Bucket], None]) -> None:
        self._step = step
        self._warm: set[Bucket] = set()
        self._graphs: dict[Bucket, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, bucket: Bucket) -> None:
        if bucket in self._graphs:
            self._graphs[bucket].replay()
        elif bucket in self._warm:
            self._graphs[bucket] = self._captured(bucket)
            self._graphs[bucket].replay()
        else:
            self._warm.add(bucket)
            self._step(bucket)

    def _captured(self, bucket: Bucket) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile, as reward models do.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            self._step(bucket)
        return graph


def can_be_captured(config: Any) -> bool:
    """Whether a model's step depends on no value: some rotary embeddings ask how long the longest row is."""
    parameters = getattr(config, "rope_parameters", None) or {}
    kinds = [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
    return not any(kind.get("rope_type") in ("dynamic", "longrope") for kind in kinds)

"""The rows that an engine decodes: what each is asked, how far it is, and what it drew so far.

Everything a step of decoding reads and writes is a tensor over rows whose address stays, so that a step may be captured and played again.
What the host must know of a row (its length, how many tokens it has) follows from counting and is never asked of the device.

Shapes: R active rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zero2r1.rollout.engine import Request
from zero2r1.rollout.kv_cache import KVCache
from zero2r1.rollout.sampling import keep_top, sample_tokens, uniforms

STOPS = 8
"""The most stop ids of a row."""


@dataclass(frozen=True, slots=True)
class Done:
    """Sample ``index`` of a request, complete."""

    request: Request
    index: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(slots=True)
class _Owner:
    request: Request
    index: int
    prompt: int  # its tokens
    count: int = 0  # tokens drawn, as in ``counts``

    @property
    def length(self) -> int:
        """Tokens in the cache, as in ``lengths``: all but the one drawn last."""
        return self.prompt + self.count - 1


class Rows:
    """The state of the rows being decoded, as tensors over rows; only 0 to ``active - 1`` mean anything."""

    def __init__(self, cache: KVCache, device: torch.device) -> None:
        self.cache = cache
        self.active = 0
        self.lengths = torch.zeros(cache.rows, dtype=torch.long, device=device)
        self.last_tokens = torch.zeros_like(self.lengths)
        self.counts = torch.zeros_like(self.lengths)
        self.limits = torch.zeros_like(self.lengths)
        self.temperatures = torch.zeros(cache.rows, device=device)
        self.stops = torch.full((cache.rows, STOPS), -1, device=device)
        self.uniforms = torch.zeros(cache.rows, cache.positions, dtype=torch.float64, device=device)
        self.tokens = torch.zeros(cache.rows, cache.positions, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(cache.rows, cache.positions, device=device)
        self._owners: list[_Owner] = []

    @property
    def longest(self) -> int:
        """Tokens in the fullest active row."""
        return max(owner.length for owner in self._owners)

    @property
    def cut(self) -> bool:
        """Whether some active row samples from a part of the distribution."""
        return any(owner.request.params.top_p < 1 or owner.request.params.top_k is not None for owner in self._owners)

    def fits(self, rows: int, positions: int) -> bool:
        return rows <= self.cache.rows and positions <= self.cache.positions

    def start(self, request: Request, index: int, keys: Tensor, values: Tensor) -> None:
        """Occupy the next row with sample ``index`` of a request whose prompt is computed."""
        row, params = self.active, request.params
        self.cache.fill(row, keys, values)
        if len(params.stop_token_ids) > STOPS:
            raise ValueError(f"request {request.id} has {len(params.stop_token_ids)} stop ids; at most {STOPS} fit")
        self.lengths[row] = keys.shape[2]
        self.counts[row] = 0
        self.limits[row] = params.max_new_tokens
        self.temperatures[row] = params.temperature
        self.stops[row] = -1
        self.stops[row, : len(params.stop_token_ids)] = torch.tensor(params.stop_token_ids)
        numbers = torch.from_numpy(uniforms(request.seeds[index], params.max_new_tokens))
        self.uniforms[row, : params.max_new_tokens] = numbers.to(self.uniforms.device)
        self._owners.append(_Owner(request, index, keys.shape[2]))
        self.active += 1

    def record(self, first: int, logits: Tensor) -> list[Done]:
        """Draw a token for rows ``first`` to ``active - 1`` from logits [R, V]; remove and return what finished."""
        chosen = slice(first, self.active)
        for i, owner in enumerate(self._owners[first:]):
            params = owner.request.params
            if params.top_p < 1 or params.top_k is not None:
                tempered = logits[i : i + 1] / (params.temperature or 1.0)  # the nucleus is of what will be sampled
                kept = keep_top(tempered, params.top_p, params.top_k)[0]
                logits[i].masked_fill_(kept == float("-inf"), float("-inf"))
        counts = self.counts[chosen]
        rows = torch.arange(first, self.active, device=counts.device)
        tokens, logprobs = sample_tokens(logits, self.temperatures[chosen], self.uniforms[rows, counts])
        self.tokens[rows, counts] = tokens
        self.logprobs[rows, counts] = logprobs
        self.last_tokens[chosen] = tokens
        self.counts[chosen] += 1
        over = (tokens[:, None] == self.stops[chosen]).any(-1) | (self.counts[chosen] >= self.limits[chosen])
        return self.drawn(first, over.tolist())

    def drawn(self, first: int, over: Sequence[bool]) -> list[Done]:
        """Every row from ``first`` on has one token more; remove and return those that are ``over``."""
        for owner in self._owners[first:]:
            owner.count += 1
        finished = [first + row for row, is_over in enumerate(over) if is_over]
        done = [self._result(row) for row in finished]
        self._remove(finished)
        return done

    def _result(self, row: int) -> Done:
        owner = self._owners[row]
        tokens, logprobs = self.tokens[row, : owner.count].tolist(), self.logprobs[row, : owner.count].tolist()
        return Done(owner.request, owner.index, tuple(tokens), tuple(logprobs))

    def _remove(self, finished: list[int]) -> None:
        if not finished:
            return
        kept = self.active - len(finished)
        gone = set(finished)
        source = [row for row in range(kept, self.active) if row not in gone]
        target = [row for row in finished if row < kept]
        if source:
            self.cache.move(source, target, max(self._owners[row].length for row in source))
            for state in (self.lengths, self.last_tokens, self.counts, self.limits, self.temperatures):
                state[target] = state[source]
            for table in (self.stops, self.uniforms, self.tokens, self.logprobs):
                table[target] = table[source]
            for to, origin in zip(target, source, strict=True):
                self._owners[to] = self._owners[origin]
        del self._owners[kept:]
        self.active = kept

"""The embedded engine: any `transformers` causal LM, sampled as a stream by continuous batching.

One step decodes one token for every active row. Finished rows leave at once and waiting samples take their place, so the
batch stays full until the queue is empty. A prompt is computed once for all samples of its request; each row starts from
a copy of its keys and values. Float32 log-probabilities equal the trainer's to rounding, so they can serve as old ones.

Shapes: R active rows, V vocabulary, M largest number of new tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from zero2r1.models.attention import backbone_forward
from zero2r1.models.packed_linear import available, packed_linears
from zero2r1.rollout.engine import Finished, Request
from zero2r1.rollout.kv_cache import DecodeAttention, KVCache, PrefillAttention
from zero2r1.rollout.sampling import keep_top, sample_tokens, uniforms
from zero2r1.types import Completion, Segment

PREFILL_TOKENS = 8192
ROUND_POSITIONS = 64


@dataclass(slots=True)
class _Prefilled:
    """A prompt whose samples still wait for rows."""

    request: Request
    keys: Tensor  # [L, H_kv, P, D]
    values: Tensor
    logits: Tensor  # [V]
    admitted: int = 0


class TorchEngine:
    """An :class:`~zero2r1.rollout.engine.Engine` over a model prepared by ``use_packed_attention``.

    Args:
        model: shared with the trainer or not; put into no mode, left on its device.
        decode: token ids -> text, special tokens kept.
        token_budget: positions of all rows together; the cache takes this many and no more.
        max_rows: rows decoded at once.
        autocast: e.g. ``torch.bfloat16`` to compute in; weights, cache and logits keep their own type.
        onednn: decode from weights packed for oneDNN where that is faster; see :mod:`zero2r1.models.packed_linear`. With bfloat16 on a
            CPU only products are in bfloat16 then, and the rest in float32.
        half_head: where bfloat16 is for products alone, multiply with the head in it too.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        decode: Callable[[Sequence[int]], str],
        *,
        token_budget: int = 65_536,
        max_rows: int = 256,
        autocast: torch.dtype | None = None,
        onednn: bool = True,
        half_head: bool = False,
    ) -> None:
        self._model, self._decode = model, decode
        self._token_budget, self._max_rows, self._autocast = token_budget, max_rows, autocast
        self._device = next(model.parameters()).device
        self._version = 0
        self._half = onednn and autocast is torch.bfloat16 and self._device.type == "cpu" and available()
        self._half_head = half_head
        self._onednn = self._half or (onednn and autocast is None)
        self._waiting: deque[Request] = deque()
        self._prefilled: deque[_Prefilled] = deque()
        self._rows: _Rows | None = None
        self.prefills = 0
        """Prompts computed so far: one a request, whatever its group size."""
        self.decoded_rows = 0
        """Row-steps computed so far: the work of decoding."""

    @property
    def exact(self) -> bool:
        return self._autocast is None and next(self._model.parameters()).dtype == torch.float32

    def load_weights(self, weights: Mapping[str, Any] | None, version: int) -> None:
        """Sample from these weights from now on; ``None``: they are the trainer's own parameters, already in place.

        Raises:
            RuntimeError: names or shapes differ from the model's, or samples are under way.
        """
        if self._rows is not None and self._rows.active:
            raise RuntimeError("weights may not change while completions are under way")
        if weights is not None:
            self._model.load_state_dict(dict(weights), strict=True)
        self._version = version

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests.

        Raises:
            ValueError: a request is longer than the model's context or the token budget.
        """
        context = getattr(self._model.config, "max_position_embeddings", None)
        for request in requests:
            longest = _positions(request)
            if context is not None and longest > context:
                raise ValueError(
                    f"request {request.id}: {len(request.prompt_ids)} prompt tokens and up to {request.params.max_new_tokens} new ones "
                    f"exceed the model's context of {context}. Shorten the prompt or lower the cap to "
                    f"{max(1, context - (longest - request.params.max_new_tokens))} or less: --rollout.max_new_tokens, "
                    "in evaluation --evaluation.max_new_tokens, for samples --sample.max_new_tokens."
                )
            if longest > self._token_budget:
                raise ValueError(f"request {request.id} needs {longest} positions; raise the token budget of {self._token_budget}")
        self._waiting.extend(requests)

    @torch.inference_mode()
    def _advance(self) -> list[Finished]:
        finished = self._admit()
        if self._rows is not None and self._rows.active:
            rows = self._rows
            layout = DecodeAttention(rows.cache, rows.lengths[: rows.active])
            hidden = self._forward(rows.last_tokens[: rows.active], rows.lengths[: rows.active], layout)
            rows.lengths[: rows.active] += 1
            self.decoded_rows += rows.active
            finished += self._emit(rows.record(0, self._logits(hidden)))
        return finished

    def stream(self) -> Iterator[Finished]:
        """Yield completions as they finish until nothing is queued."""
        # Weights cannot change while completions are under way (see load_weights), so packed copies stay true.
        with packed_linears(self._model, enabled=self._onednn, half=self._half, half_head=self._half_head):
            while self._waiting or self._prefilled or (self._rows is not None and self._rows.active):
                yield from self._advance()

    def _forward(self, token_ids: Tensor, positions: Tensor, layout: Any) -> Tensor:
        kind = self._device.type
        with torch.autocast(kind, dtype=self._autocast or torch.bfloat16, enabled=self._autocast is not None and not self._half):
            return backbone_forward(self._model, token_ids, positions, layout)

    def _logits(self, hidden: Tensor) -> Tensor:
        head = self._model.get_output_embeddings()
        logits: Tensor = head(hidden.to(head.weight.dtype))
        return logits.float()

    def _admit(self) -> list[Finished]:
        if not self._waiting and not self._prefilled:
            return []
        self._make_room()
        rows = self._rows
        assert rows is not None
        first = rows.active
        logits: list[Tensor] = []
        while rows.active < rows.cache.rows:
            if not self._prefilled:
                self._prefill(rows)
                if not self._prefilled:
                    break
            group = self._prefilled[0]
            if _positions(group.request) > rows.cache.positions:
                break  # waits until the rows are empty and the cache can grow
            rows.start(group.request, group.admitted, group.keys, group.values)
            logits.append(group.logits)
            group.admitted += 1
            if group.admitted == len(group.request.seeds):
                self._prefilled.popleft()
        return self._emit(rows.record(first, torch.stack(logits))) if logits else []

    def _prefill(self, rows: _Rows) -> None:
        batch: list[Request] = []
        tokens = samples = 0
        while self._waiting and samples < rows.cache.rows - rows.active and tokens < PREFILL_TOKENS:
            request = self._waiting.popleft()
            batch.append(request)
            tokens += len(request.prompt_ids) + len(request.forced_ids)
            samples += len(request.seeds)
        if not batch:
            return
        prompts = [request.prompt_ids + request.forced_ids for request in batch]
        lengths = [len(prompt) for prompt in prompts]
        layout = PrefillAttention(lengths, self._device)
        ids = torch.tensor([token for prompt in prompts for token in prompt], device=self._device)
        positions = torch.cat([torch.arange(n, device=self._device) for n in lengths])
        ends = torch.tensor(lengths, device=self._device).cumsum(0) - 1
        logits = self._logits(self._forward(ids, positions, layout)[ends])
        for request, (keys, values), row in zip(batch, layout.per_prompt(), logits, strict=True):
            self._prefilled.append(_Prefilled(request, keys, values, row))
        self.prefills += len(batch)

    def _make_room(self) -> None:
        """Allocate the cache, or a larger one as soon as nothing is under way."""
        queue = [*(group.request for group in self._prefilled), *self._waiting]
        positions = max(_positions(request) for request in queue)
        positions = min(-(-positions // ROUND_POSITIONS) * ROUND_POSITIONS, self._token_budget)
        wanted = min(self._max_rows, self._token_budget // positions, sum(len(request.seeds) for request in queue))
        if self._rows is None or (not self._rows.active and not self._rows.fits(wanted, positions)):
            self._rows = None  # release the old cache before taking the new one
            self._rows = _Rows(KVCache(self._model, rows=wanted, positions=positions), self._device)

    def _emit(self, done: list[_Done]) -> list[Finished]:
        finished = []
        for item in done:
            request = item.request
            stopped = item.token_ids[-1] in request.params.stop_token_ids
            shown = item.token_ids[:-1] if stopped else item.token_ids
            segments = [Segment(token_ids=item.token_ids, logprobs=item.logprobs)]
            if request.forced_ids:
                segments.insert(0, Segment(token_ids=request.forced_ids, logprobs=None))
            completion = Completion(
                segments=tuple(segments),
                text=self._decode(request.forced_ids + shown),
                finish_reason="stop" if stopped else "length",
                seed=request.seeds[item.index],
                policy_version=self._version,
            )
            finished.append(Finished(request_id=request.id, index=item.index, completion=completion))
        return finished


@dataclass(frozen=True, slots=True)
class _Done:
    request: Request
    index: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


class _Rows:
    """The state of the rows being decoded, as tensors over rows; only 0 to ``active - 1`` mean anything."""

    def __init__(self, cache: KVCache, device: torch.device) -> None:
        self.cache = cache
        self.active = 0
        self.lengths = torch.zeros(cache.rows, dtype=torch.long, device=device)
        self.last_tokens = torch.zeros_like(self.lengths)
        self._counts = torch.zeros_like(self.lengths)
        self._limits = torch.zeros_like(self.lengths)
        self._temperatures = torch.zeros(cache.rows, device=device)
        self._stops = torch.full((cache.rows, 8), -1, device=device)
        self._uniforms = torch.zeros(cache.rows, cache.positions, dtype=torch.float64, device=device)
        self._tokens = torch.zeros(cache.rows, cache.positions, dtype=torch.long, device=device)
        self._logprobs = torch.zeros(cache.rows, cache.positions, device=device)
        self._owners: list[tuple[Request, int]] = []

    def fits(self, rows: int, positions: int) -> bool:
        return rows <= self.cache.rows and positions <= self.cache.positions

    def start(self, request: Request, index: int, keys: Tensor, values: Tensor) -> None:
        """Occupy the next row with sample ``index`` of a request whose prompt is computed."""
        row, params = self.active, request.params
        self.cache.fill(row, keys, values)
        if len(params.stop_token_ids) > self._stops.shape[1]:
            raise ValueError(f"request {request.id} has {len(params.stop_token_ids)} stop ids; at most {self._stops.shape[1]} fit")
        self.lengths[row] = keys.shape[2]
        self._counts[row] = 0
        self._limits[row] = params.max_new_tokens
        self._temperatures[row] = params.temperature
        self._stops[row] = -1
        self._stops[row, : len(params.stop_token_ids)] = torch.tensor(params.stop_token_ids)
        numbers = torch.from_numpy(uniforms(request.seeds[index], params.max_new_tokens))
        self._uniforms[row, : params.max_new_tokens] = numbers.to(self._uniforms.device)
        self._owners.append((request, index))
        self.active += 1

    def record(self, first: int, logits: Tensor) -> list[_Done]:
        """Draw a token for rows ``first`` to ``active - 1`` from logits [R, V]; remove and return what finished."""
        chosen = slice(first, self.active)
        for i, (request, _) in enumerate(self._owners[first:]):
            if request.params.top_p < 1 or request.params.top_k is not None:
                tempered = logits[i : i + 1] / (request.params.temperature or 1.0)  # the nucleus is of what will be sampled
                kept = keep_top(tempered, request.params.top_p, request.params.top_k)[0]
                logits[i].masked_fill_(kept == float("-inf"), float("-inf"))
        counts = self._counts[chosen]
        rows = torch.arange(first, self.active, device=counts.device)
        tokens, logprobs = sample_tokens(logits, self._temperatures[chosen], self._uniforms[rows, counts])
        self._tokens[rows, counts] = tokens
        self._logprobs[rows, counts] = logprobs
        self.last_tokens[chosen] = tokens
        self._counts[chosen] += 1
        over = (tokens[:, None] == self._stops[chosen]).any(-1) | (self._counts[chosen] >= self._limits[chosen])
        finished = [first + row for row in over.nonzero().flatten().tolist()]
        done = [self._result(row) for row in finished]
        self._remove(finished)
        return done

    def _result(self, row: int) -> _Done:
        request, index = self._owners[row]
        count = int(self._counts[row])
        return _Done(request, index, tuple(self._tokens[row, :count].tolist()), tuple(self._logprobs[row, :count].tolist()))

    def _remove(self, finished: list[int]) -> None:
        if not finished:
            return
        kept = self.active - len(finished)
        gone = set(finished)
        source = [row for row in range(kept, self.active) if row not in gone]
        target = [row for row in finished if row < kept]
        if source:
            self.cache.move(source, target, int(self.lengths[source].max()))
            for state in (self.lengths, self.last_tokens, self._counts, self._limits, self._temperatures):
                state[target] = state[source]
            for table in (self._stops, self._uniforms, self._tokens, self._logprobs):
                table[target] = table[source]
            for to, origin in zip(target, source, strict=True):
                self._owners[to] = self._owners[origin]
        del self._owners[kept:]
        self.active = kept


def _positions(request: Request) -> int:
    return len(request.prompt_ids) + len(request.forced_ids) + request.params.max_new_tokens

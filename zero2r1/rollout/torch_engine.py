"""The embedded engine: any `transformers` causal LM, sampled as a stream by continuous batching.

One step decodes one token for every active row. Finished rows leave at once and waiting samples take their place, so the
batch stays full until the queue is empty. A prompt is computed once for all samples of its request; each row starts from
a copy of its keys and values. Float32 log-probabilities equal the trainer's to rounding, so they can serve as old ones.

On a GPU a twin of the model is sampled, and steps are padded and captured; see :mod:`~zero2r1.models.twin` and
:mod:`~zero2r1.rollout.decoding`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from zero2r1.models.attention import backbone_forward
from zero2r1.models.lean_backbone import Backbone, backbone_without_gradient
from zero2r1.models.packed_linear import available, packed_linears
from zero2r1.models.twin import Twin
from zero2r1.rollout.decoding import BucketDecoder, Decoder, ExactDecoder, Forward, can_be_captured
from zero2r1.rollout.engine import Finished, Request
from zero2r1.rollout.kv_cache import KVCache, PrefillAttention
from zero2r1.rollout.rows import Done, Rows
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sampled:
    """The model that is sampled, and in which way."""

    model: PreTrainedModel
    backbone: Backbone
    casts: torch.dtype | None
    """What autocast computes in; ``None``: there is none."""
    ready: Callable[[], AbstractContextManager[None]]
    """Around sampling; weights do not change meanwhile."""
    decoder_of: Callable[[Rows, Forward], Decoder]
    cache_dtype: torch.dtype | None = None
    """``None``: as the parameters."""

    def hidden(self, token_ids: Tensor, positions: Tensor, layout: Any) -> Tensor:
        with torch.autocast(token_ids.device.type, dtype=self.casts or torch.bfloat16, enabled=self.casts is not None):
            return self.backbone(token_ids, positions, layout)

    def logits(self, hidden: Tensor) -> Tensor:
        head = self.model.get_output_embeddings()
        logits: Tensor = head(hidden.to(head.weight.dtype))
        return logits.float()

    def __call__(self, token_ids: Tensor, positions: Tensor, layout: Any) -> Tensor:
        return self.logits(self.hidden(token_ids, positions, layout))


def _model_itself(model: PreTrainedModel, autocast: torch.dtype | None, *, onednn: bool, half_head: bool) -> _Sampled:
    """Every step computes what it needs and nothing else: for a CPU."""
    half = onednn and autocast is torch.bfloat16 and available()
    # Weights cannot change while completions are under way (see load_weights), so packed copies stay true.
    packs = half or (onednn and autocast is None)
    ready = partial(packed_linears, model, enabled=packs, half=half, half_head=half_head)
    casts = None if half else autocast
    backbone = backbone_without_gradient(model) if casts is None else partial(backbone_forward, model)
    return _Sampled(model=model, backbone=backbone, casts=casts, ready=ready, decoder_of=ExactDecoder)


def _twin_of(model: PreTrainedModel, autocast: torch.dtype | None, *, capture: bool, half_head: bool) -> _Sampled:
    """Steps are padded, and captured as CUDA graphs if asked for: for a GPU."""
    half = autocast is torch.bfloat16
    twin = Twin(model, half=half, half_head=half_head)
    return _Sampled(
        model=twin.model,
        backbone=partial(backbone_forward, twin.model),
        casts=autocast,
        ready=twin.fresh,
        decoder_of=partial(BucketDecoder, capture=capture),
        cache_dtype=torch.bfloat16 if half else None,
    )


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
        half_head: with bfloat16, multiply with the head in it too.
        resident: sample from a twin of the model, by padded steps at addresses that stay; on a GPU, where steps are captured too, if
            nothing is said.
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
        resident: bool | None = None,
    ) -> None:
        self._model, self._decode = model, decode
        self._token_budget, self._max_rows, self._autocast = token_budget, max_rows, autocast
        self._device = next(model.parameters()).device
        self._version = 0
        on_gpu = self._device.type == "cuda"
        if on_gpu if resident is None else resident:
            self._sampled = _twin_of(model, autocast, capture=on_gpu and can_be_captured(model.config), half_head=half_head)
        else:
            self._sampled = _model_itself(model, autocast, onednn=onednn and not on_gpu, half_head=half_head)
        self._waiting: deque[Request] = deque()
        self._prefilled: deque[_Prefilled] = deque()
        self._rows: Rows | None = None
        self._decoder: Decoder | None = None
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
            assert self._decoder is not None
            self.decoded_rows += self._rows.active
            finished += self._emit(self._decoder.step())
        return finished

    def stream(self) -> Iterator[Finished]:
        """Yield completions as they finish until nothing is queued."""
        with self._sampled.ready():
            while self._waiting or self._prefilled or (self._rows is not None and self._rows.active):
                yield from self._advance()

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

    def _prefill(self, rows: Rows) -> None:
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
        layout = PrefillAttention(lengths, self._device, self._sampled.cache_dtype)
        ids = torch.tensor([token for prompt in prompts for token in prompt], device=self._device)
        positions = torch.cat([torch.arange(n, device=self._device) for n in lengths])
        ends = torch.tensor(lengths, device=self._device).cumsum(0) - 1
        logits = self._sampled.logits(self._sampled.hidden(ids, positions, layout)[ends])
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
            self._rows = self._decoder = None  # release the old cache, and what was captured over it, before taking the new one
            self._rows = Rows(KVCache(self._model, rows=wanted, positions=positions, dtype=self._sampled.cache_dtype), self._device)
            self._decoder = self._sampled.decoder_of(self._rows, self._sampled)

    def _emit(self, done: list[Done]) -> list[Finished]:
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


def _positions(request: Request) -> int:
    return len(request.prompt_ids) + len(request.forced_ids) + request.params.max_new_tokens

"""What a sampler is to the rest of the system: requests in, completions out as they finish (architecture decision 3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from zero2r1.types import Completion


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to sample. ``temperature=0`` is greedy. ``top_p`` and ``top_k`` are for evaluation only.

    Training refuses them: the trainer's log-probabilities are of the whole distribution, and samples from a cut one
    would be off-policy by the mass that was cut (the mean ratio becomes the kept mass).
    """

    max_new_tokens: int
    stop_token_ids: tuple[int, ...]
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if self.temperature < 0:
            raise ValueError(f"temperature must be >= 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1 or left out, got {self.top_k}")

    @property
    def whole_distribution(self) -> bool:
        """Whether samples follow the model's own distribution at this temperature: what training needs."""
        return self.temperature > 0 and self.top_p == 1.0 and self.top_k is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt and the seeds of the samples wanted from it: ``len(seeds)`` is the group size G.

    ``forced_ids`` open every completion (a prefilled ``<think>``); they are part of the completion but never trained on.
    """

    id: int
    prompt_ids: tuple[int, ...]
    seeds: tuple[int, ...]
    params: SamplingParams
    forced_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise ValueError(f"request {self.id} has an empty prompt; a model needs at least one token to continue")
        if not self.seeds:
            raise ValueError(f"request {self.id} asks for no sample")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Sample ``index`` of request ``request_id`` is done."""

    request_id: int
    index: int
    completion: Completion


class Engine(Protocol):
    """A source of completions. The torch engine, a vLLM engine and a remote worker all look like this."""

    @property
    def exact(self) -> bool:
        """Whether its log-probabilities equal the trainer's to float32 rounding, so that they may serve as old ones."""
        ...

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests. Ids must be new among the unfinished ones."""
        ...

    def stream(self) -> Iterator[Finished]:
        """Yield completions as they finish until nothing is queued; more may be submitted meanwhile."""
        ...

    def load_weights(self, weights: Mapping[str, Any] | None, version: int) -> None:
        """Sample from these weights from now on; ``None``: the engine shares the trainer's own parameters."""
        ...


def generate(engine: Engine, requests: Sequence[Request]) -> list[list[Completion]]:
    """All samples of all requests, in the order asked for."""
    results: dict[int, list[Completion | None]] = {r.id: [None] * len(r.seeds) for r in requests}
    if len(results) != len(requests):
        raise ValueError("request ids must be distinct")
    engine.submit(requests)
    for finished in engine.stream():
        results[finished.request_id][finished.index] = finished.completion
    ordered: list[list[Completion]] = []
    for request in requests:
        group = [completion for completion in results[request.id] if completion is not None]
        assert len(group) == len(request.seeds), f"engine lost samples of request {request.id}"
        ordered.append(group)
    return ordered

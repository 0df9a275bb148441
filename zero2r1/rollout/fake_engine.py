"""An engine that answers from a script: for tests, and for trying rewards and evaluation without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from zero2r1.rollout.engine import Finished, Request
from zero2r1.types import Completion, FinishReason, Segment

Script = Callable[[Request, int], "str | tuple[str, FinishReason]"]
"""(request, index of the sample) -> the text, or the text and how it ended."""


class FakeEngine:
    """Says what ``script`` says. A completion has one made-up token per word, and one for its end."""

    exact = True

    def __init__(self, script: Script) -> None:
        self._script = script
        self._waiting: list[Request] = []
        self._version = 0

    def submit(self, requests: Sequence[Request]) -> None:
        self._waiting.extend(requests)

    def stream(self) -> Iterator[Finished]:
        while self._waiting:
            request = self._waiting.pop(0)
            for index, seed in enumerate(request.seeds):
                yield Finished(request_id=request.id, index=index, completion=self._complete(request, index, seed))

    def load_weights(self, weights: Mapping[str, Any] | None, version: int) -> None:
        self._version = version

    def _complete(self, request: Request, index: int, seed: int) -> Completion:
        said = self._script(request, index)
        text, reason = said if isinstance(said, tuple) else (said, "stop")
        count = len(text.split()) + (reason == "stop")
        segment = Segment(token_ids=tuple(range(count)), logprobs=(-1.0,) * count)
        return Completion(segments=(segment,), text=text, finish_reason=reason, seed=seed, policy_version=self._version)

"""Answers from any server that speaks the OpenAI chat API (vLLM, SGLang, llama.cpp, a hosted model): text in, text out.

What judges, preference pairs, rejection sampling and evaluation ask. It is no :class:`~zero2r1.rollout.engine.Engine`: that
protocol hands over the policy's token ids with their log-probabilities, which such a server does not have for us, and ids made up
from text would not be the ones that were sampled. Nothing that comes from here can be trained on as a rollout.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from zero2r1.rollout.address import Secret, check_address
from zero2r1.rollout.endpoint import Endpoint, EndpointError, Fault, Limits, is_whole
from zero2r1.seeds import derive_seed
from zero2r1.types import Message

Prompt = str | Sequence[Message]
"""A dialogue, or the one thing a user says: what ``Problem.prompt`` is."""

_RESERVED = frozenset({"model", "messages", "stream"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one request as the server counted them. The ``n`` replies of a request share one."""

    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One choice. ``reasoning`` comes from the server's own field, or from a ``<think>`` block that opens the text."""

    text: str
    """What follows the reasoning; empty when the reply was cut inside it."""
    reasoning: str | None
    finish_reason: str | None
    """``stop``, ``length``, or another word of the server such as ``content_filter``; ``None`` when it gives none."""
    usage: Usage
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A prompt that got no reply, with the words of the :class:`EndpointError`."""

    why: str
    status: int | None
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatParams:
    """How to sample. What is ``None`` or empty is not sent, so the server's own default holds."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    n: int = 1
    stop: Sequence[str] = ()
    seed: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Any other field of the request: ``{"top_k": 20, "reasoning_effort": "low"}``."""

    def __post_init__(self) -> None:
        taken = sorted(_RESERVED.union(self.__slots__) & set(self.extra))
        for name, fine, wanted in (
            ("temperature", self.temperature is None or 0 <= self.temperature <= 2, "from 0 to 2"),
            ("top_p", self.top_p is None or 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("max_tokens", self.max_tokens is None or is_whole(self.max_tokens, 1, 2**20), "a whole number from 1 to 1048576"),
            ("n", is_whole(self.n, 1, 128), "a whole number from 1 to 128"),
            ("seed", self.seed is None or is_whole(self.seed, 0, 2**63 - 1), "a whole number from 0 to 2**63 - 1"),
            ("stop", not isinstance(self.stop, str) and len(self.stop) <= 16 and all(self.stop), "at most 16 non-empty texts"),
            ("extra", not taken, f"without {taken}, which have their own place"),
        ):
            if not fine:
                raise ValueError(f"{name} must be {wanted}, got {getattr(self, name)!r}")

    def fields(self) -> dict[str, Any]:
        """The fields of the request that say so."""
        named: dict[str, Any] = {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_tokens, "seed": self.seed}
        named |= {"n": self.n if self.n > 1 else None, "stop": list(self.stop) or None}
        return {name: value for name, value in named.items() if value is not None} | dict(self.extra)


class OpenAIClient:
    """A model behind ``base_url``. Thread-safe; all callers together stay within its concurrency and rate.

    ``OpenAIClient(base_url="http://127.0.0.1:8000/v1", model="r1").complete("What is 7 + 5?")``
    """

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        api_key: str | None = None,
        api_key_env: str | None = None,
        allow_plaintext_key: bool = False,
        params: ChatParams | None = None,
        think_open: bool = False,
        concurrency: int = 8,
        requests_per_minute: float | None = None,
        retries: int = 5,
        timeout_s: float = 120.0,
        jitter_seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """
        Args:
            api_key_env: the environment variable that holds the key. No variable is read that is not named here.
            allow_plaintext_key: send the key over http to another machine, as in a cluster of one's own.
            params: how to sample where a call does not say otherwise.
            think_open: the server's template ends in ``<think>``, so texts start inside the reasoning.
            concurrency: and the four that follow: see :class:`~zero2r1.rollout.endpoint.Limits`.

        Raises:
            ValueError: a setting is out of range, or the key is missing or would be sent in the clear.
        """
        secret = Secret.read(api_key, api_key_env)
        self.base_url = check_address(base_url, key=secret.value is not None, plaintext_key=allow_plaintext_key)
        self.model = model
        self.params = params or ChatParams()
        self._think_open = think_open
        self._concurrency = concurrency
        self._endpoint = Endpoint(
            f"{self.base_url}/chat/completions",
            secret=secret,
            limits=Limits(
                concurrency=concurrency,
                requests_per_minute=requests_per_minute,
                retries=retries,
                timeout_s=timeout_s,
                jitter_seed=jitter_seed,
            ),
            subject=f"(model {model!r})",
            clock=clock,
            sleep=sleep,
        )

    def __repr__(self) -> str:
        return f"OpenAIClient(base_url={self.base_url!r}, model={self.model!r})"

    def chat(self, prompt: Prompt, **changes: Any) -> list[Reply]:
        """The ``n`` replies to one prompt.

        ``changes`` are fields of :class:`ChatParams`: ``chat(messages, temperature=0.6, max_tokens=4096, n=4)``.

        Raises:
            ValueError: a parameter is out of range; nothing was sent.
            EndpointError: the server refused, or gave nothing usable after all retries.
        """
        return self._chat(prompt, replace(self.params, **changes))

    def complete(self, prompt: str) -> str:
        """The text of one reply, without its reasoning: what a judge takes as ``complete``. Raises as :meth:`chat` does."""
        return self.chat(prompt, n=1)[0].text

    def map(self, prompts: Iterable[Prompt], **changes: Any) -> Iterator[list[Reply] | Failure]:
        """The replies to every prompt, in the order of the prompts, each as soon as those before it are there.

        Requests start when the first result is asked for and run ahead of the reader; leaving the loop starts no more of them. A
        prompt that fails is a :class:`Failure` in its place. With a ``seed``, prompt i is sent one derived from it and i, so that
        a prompt that occurs twice is sampled twice.

        Raises:
            ValueError: a parameter is out of range, at once.
        """
        return self._map(list(prompts), replace(self.params, **changes))

    def close(self) -> None:
        """Close idle connections."""
        self._endpoint.close()

    def _chat(self, prompt: Prompt, params: ChatParams) -> list[Reply]:
        messages = [Message(role="user", content=prompt)] if isinstance(prompt, str) else list(prompt)
        if not messages:
            raise ValueError("a dialogue needs at least one message")
        payload = {
            "model": self.model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            **params.fields(),
        }
        try:
            body = json.dumps(payload, allow_nan=False).encode("ascii")
        except (TypeError, ValueError) as error:
            raise ValueError(f"`extra` must be JSON without NaN or infinity: {error}") from error
        return self._endpoint.post(body, lambda answer: read_replies(answer, n=params.n, model=self.model, think_open=self._think_open))

    def _map(self, prompts: list[Prompt], params: ChatParams) -> Iterator[list[Reply] | Failure]:
        results: list[Future[list[Reply] | Failure]] = [Future() for _ in prompts]
        tasks = iter(enumerate(prompts))
        turn, stopped = threading.Lock(), threading.Event()

        def work() -> None:
            while not stopped.is_set():
                with turn:
                    index, prompt = next(tasks, (-1, ""))
                if index < 0:
                    return
                seed = None if params.seed is None else derive_seed(params.seed, "map", index) >> 32  # some servers take 32 bits
                try:
                    results[index].set_result(self._chat(prompt, replace(params, seed=seed)))
                except EndpointError as error:
                    results[index].set_result(Failure(why=str(error), status=error.status, attempts=error.attempts))
                except BaseException as error:  # raised again where the result is read
                    results[index].set_exception(error)

        # Daemons: Ctrl-C must not wait for a server that hangs.
        for _ in range(min(self._concurrency, len(prompts))):
            threading.Thread(target=work, daemon=True, name="openai-client").start()
        try:
            for index in range(len(results)):
                yield results[index].result()
                results[index] = Future()  # what was read need not be kept
        finally:
            stopped.set()


def read_replies(answer: Any, *, n: int, model: str, think_open: bool = False) -> list[Reply]:
    """The replies in the body of an answer.

    Raises:
        Fault: it has no choices, or not ``n``, or they are not what the API says they are.
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not choices:
        raise _malformed(f"it has no choices: {answer}")
    if len(choices) != n:
        advice = "Some servers know only n=1: repeat the prompt in map() instead."
        raise Fault(f"answered with {len(choices)} choices for n={n}", advice=advice, retryable=False, status=200)
    counts = answer.get("usage") if isinstance(answer.get("usage"), dict) else {}
    usage = Usage(prompt_tokens=_count(counts.get("prompt_tokens")), completion_tokens=_count(counts.get("completion_tokens")))
    name = answer.get("model")
    return [_reply(choice, usage, name if isinstance(name, str) else model, think_open) for choice in choices]


def split_reasoning(content: str, *, think_open: bool = False) -> tuple[str | None, str]:
    """(reasoning, text) of a reply that may open with ``<think>``; reasoning that never closes leaves no text.

    ``"<think> 3 + 4 </think>\\n\\n7"`` has the reasoning ``"3 + 4"`` and the text ``"7"``. Without a block the text stays as it is.
    """
    start = content.lstrip()
    if not think_open and not start.startswith("<think>"):
        return None, content
    reasoning, _, text = start.removeprefix("<think>").partition("</think>")
    return reasoning.strip(), text.lstrip()


def _reply(choice: Any, usage: Usage, model: str, think_open: bool) -> Reply:
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise _malformed("a choice has no message")
    content = message.get("content")
    if content is not None and not isinstance(content, str):
        raise _malformed(f"the content of a message is a {type(content).__name__}")
    text = content or ""
    given = (message.get("reasoning_content"), message.get("reasoning"))
    reasoning = next((value for value in given if isinstance(value, str) and value), None)
    if reasoning is None:
        reasoning, text = split_reasoning(text, think_open=think_open)
    reason = choice.get("finish_reason")
    return Reply(
        text=_writable(text),
        reasoning=None if reasoning is None else _writable(reasoning),
        finish_reason=reason if isinstance(reason, str) else None,
        usage=usage,
        model=model,
    )


def _malformed(why: str) -> Fault:
    advice = "Check that base_url is that of an OpenAI-compatible chat server."
    return Fault(f"answered with JSON that is no chat completion: {why}", advice=advice, retryable=True, status=200)


def _count(value: Any) -> int | None:
    return value if is_whole(value, 0, 2**53) else None


def _writable(text: str) -> str:
    """With halves of surrogate pairs, which JSON can spell and no file can hold, replaced by ``?``."""
    return text.encode("utf-8", "replace").decode("utf-8")

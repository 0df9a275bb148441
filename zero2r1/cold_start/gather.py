"""The ways to gather cold-start data (paper section 2.3.1): few-shot prompting, direct prompting, R1-Zero's outputs, a solver.

Work is done in chunks and yielded in order. What was yielded is final: a caller that writes it down as it comes loses at most one
chunk to a crash, and goes on with the problems that are not written down yet.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from zero2r1.cold_start.prompts import BOXED, REMINDER, Unreadable, direct_prompt, few_shot_prompt, read_response
from zero2r1.rollout.endpoint import EndpointError
from zero2r1.rollout.engine import Engine, Request, SamplingParams, generate
from zero2r1.rollout.openai_engine import Failure, OpenAIClient, Prompt, Reply, Usage, split_reasoning
from zero2r1.samples import Lineage, Rejection, Sample
from zero2r1.seeds import derive_seed
from zero2r1.template import write_cold_start
from zero2r1.types import Completion, Problem

Result = Sample | Rejection
Ask = Callable[[Sequence[Prompt]], Iterable["list[Reply] | Failure"]]
"""Prompts -> one result per prompt, in their order, failures in their place. ``OpenAIClient.map`` is one."""
Readability = Callable[[Sample], Mapping[str, str]]
"""The rules that a sample breaks, each with the reason in words; empty for a readable one."""

FAILURES_IN_A_ROW = 32
_ABOUT_THE_PROMPT = (200, 400, 413, 422)
"""Statuses that may be due to one prompt: nothing was replied to it, or the server cannot use it, as with one that is too long."""


class AskError(ValueError):
    """So many prompts in a row got no reply that the model must be taken to be gone. What to do stands in the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One thing to ask for. ``read`` makes the sample of a reply, or raises :class:`Unreadable`, or rejects it for good."""

    prompt: str
    read: Callable[[Reply], Result]
    draft: Sample
    """The sample as far as it is there: what a rejection shows. One without a summary shows the reply that could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How patiently to ask."""

    attempts: int = 3
    """How often a prompt may be asked; from the second time on with a reminder that says what was wrong."""
    chunk: int = 64
    """How many problems are under way together, and so are lost to a crash."""

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.chunk < 1:
            raise ValueError(f"attempts and chunk must be at least 1, got {self.attempts} and {self.chunk}")


def few_shot(
    problems: Iterable[Problem],
    examples: Sequence[Sample],
    ask: Ask,
    *,
    model: str,
    shown: int = 1,
    highlight: str | None = BOXED,
    seed: int = 0,
    sampler: Mapping[str, Any] | None = None,
    asking: Asking | None = None,
) -> Iterator[Result]:
    """Way 1: few-shot prompting with long chains of thought as the examples. One sample or rejection per problem, in order.

    Rejected by rule ``unreadable_reply`` or ``no_reply`` is what no attempt got right. Of several replies to one prompt the first
    readable one counts.

    Args:
        model: the name that the lineage shows.
        shown: how many examples a prompt shows. They are drawn for each problem by ``(seed, id)``, never the problem itself, and
            those of its language and domain first; the lineage holds the seed of the draw and the ids.
        highlight: how the summary must show the final answer, with ``{}`` in its place; ``None``: no matter how.
        sampler: for the lineage: how ``ask`` samples.

    Raises:
        ValueError: two problems have one id, there are too few examples, or one cannot be shown.
        AskError: 32 problems in a row got no reply, or all of a chunk did. They are not yielded, so that a later run takes them up again.
    """
    lineage = Lineage(source=f"few_shot:{model}", sampler=sampler or {})

    def task(problem: Problem) -> Task:
        draw = derive_seed(seed, "few_shot", problem.id)
        chosen = choose_examples(problem, examples, count=shown, seed=draw)
        step = f"few-shot prompt of {model} with {', '.join(example.id for example in chosen)}"
        prompt = few_shot_prompt(problem, chosen, highlight=highlight)
        return _solve(problem, prompt, "few_shot", replace(lineage, seed=draw, steps=(step,)), highlight)

    return answered((task(problem) for problem in _distinct(problems)), ask, asking or Asking())


def direct(
    problems: Iterable[Problem],
    ask: Ask,
    *,
    model: str,
    highlight: str | None = BOXED,
    sampler: Mapping[str, Any] | None = None,
    asking: Asking | None = None,
) -> Iterator[Result]:
    """Way 2: a detailed answer with reflection and verification, asked for directly. Arguments, results and errors of :func:`few_shot`."""
    lineage = Lineage(source=f"direct:{model}", sampler=sampler or {}, steps=(f"direct prompt of {model}",))

    def task(problem: Problem) -> Task:
        return _solve(problem, direct_prompt(problem, highlight=highlight), "direct", lineage, highlight)

    return answered((task(problem) for problem in _distinct(problems)), ask, asking or Asking())


def from_zero(
    samples: Iterable[Result], unreadable: Readability, *, rewrite: Callable[[Iterable[Result]], Iterable[Result]] | None = None
) -> Iterator[Result]:
    """Way 3: the outputs of R1-Zero that are correct (``measured["accuracy"]`` is 1) and readable, rewritten where wanted.

    Rejected by rule ``not_graded``, ``incorrect``, or the first rule that ``unreadable`` names. What was rewritten must be readable
    once more. ``rewrite`` is :func:`zero2r1.cold_start.rewrite.rewrite` with its arguments filled in::

        from_zero(samples, unreadable, rewrite=lambda kept: rewrite(kept, client.map, model="r1", still_right=right))
    """
    kept: Iterable[Result] = only_readable(only_correct(samples), unreadable)
    return iter(kept) if rewrite is None else only_readable(rewrite(kept), unreadable)


def from_solver(
    problems: Iterable[Problem], solve: Callable[[Problem], tuple[str, str] | None], *, name: str = "solver"
) -> Iterator[Result]:
    """(thinking, summary) as a program writes them; ``None`` of it is a rejection by rule ``no_solution``.

    Raises:
        ValueError: two problems have one id, or a solution cannot be put into the cold-start layout.
    """
    for problem in _distinct(problems):
        draft = Sample(id=f"{problem.id}#solver", problem=problem, thinking=None, summary="", lineage=Lineage(source=name))
        solution = solve(problem)
        if solution is None:
            yield Rejection(sample=draft, rule="no_solution", why=f"{name} found no solution")
            continue
        try:
            write_cold_start(*solution)
        except ValueError as error:
            raise ValueError(f"the solution of {name} to problem {problem.id!r}: {error}") from error
        yield replace(draft.after(f"solved by {name}"), thinking=solution[0], summary=solution[1])


def only_correct(results: Iterable[Result]) -> Iterator[Result]:
    """Drop what is not right: ``measured["accuracy"]`` must be 1, else the rule is ``incorrect``; ``not_graded`` where there is none."""
    for result in results:
        accuracy = result.measured.get("accuracy") if isinstance(result, Sample) else 1.0
        if isinstance(result, Rejection) or accuracy == 1.0:
            yield result
        elif accuracy is None:
            yield Rejection(sample=result, rule="not_graded", why="measured holds no accuracy: grade the samples first")
        else:
            yield Rejection(sample=result, rule="incorrect", why=f"its accuracy is {accuracy:g}")


def only_readable(results: Iterable[Result], unreadable: Readability) -> Iterator[Result]:
    """Drop what is not reader-friendly (section 2.3.1), by the first rule broken; the reason names all of them."""
    for result in results:
        broken = unreadable(result) if isinstance(result, Sample) else {}
        if isinstance(result, Sample) and broken:
            why = "; ".join(f"{rule}: {why}" for rule, why in broken.items())
            yield Rejection(sample=result, rule=next(iter(broken)), why=why)
        else:
            yield result


def choose_examples(problem: Problem, examples: Sequence[Sample], *, count: int, seed: int) -> list[Sample]:
    """``count`` examples for a problem, by lot: first those of its language and domain, then of its language, then the others.

    Raises:
        ValueError: fewer than ``count`` are left without the problem itself, whose answer must not be shown.
    """
    others = [example for example in examples if example.problem.id != problem.id]
    if not 1 <= count <= len(others):
        raise ValueError(f"{count} of {len(others)} examples cannot be shown for problem {problem.id!r}, which is not shown to itself")
    random.Random(seed).shuffle(others)
    others.sort(key=lambda example: (example.problem.language != problem.language, example.problem.domain != problem.domain))
    return others[:count]


def answered(work: Iterable[Task | Result], ask: Ask, asking: Asking) -> Iterator[Result]:
    """What becomes of each task, in order; samples and rejections among them pass through.

    Raises:
        AskError: 32 tasks in a row got no reply, or all tasks of a chunk, however few; neither they nor what stands between them is
            yielded. One task alone may be refused: a prompt that is too long for the server would end every later run as well.
        ValueError: ``ask`` did not give one result per prompt.
    """
    held: list[Result] = []
    failures = 0
    items = iter(work)
    while batch := list(islice(items, asking.chunk)):
        outcomes = _ask_chunk(batch, ask, asking.attempts)
        _refuse_silence([failure for item, (_, failure) in zip(batch, outcomes, strict=True) if isinstance(item, Task)])
        for item, (result, failure) in zip(batch, outcomes, strict=True):
            if isinstance(item, Task):
                failures = failures + 1 if failure else 0
            held.append(result)
            if failure and failures >= FAILURES_IN_A_ROW:
                raise _gone(failures, failure)
            if not failures:
                yield from held
                held = []
    yield from held


def seeded(client: OpenAIClient, *, seed: int, workers: int = 8, **changes: Any) -> Ask:
    """Ask a server with a seed for each prompt that depends on ``seed`` and its text alone, wherever in a job it stands.

    ``OpenAIClient.map`` counts the prompts of a call instead, so a job that is taken up again samples others. ``changes`` are fields
    of :class:`~zero2r1.rollout.openai_engine.ChatParams`.
    """

    def one(prompt: Prompt) -> list[Reply] | Failure:
        try:
            return client.chat(prompt, seed=prompt_seed(seed, prompt) >> 32, **changes)  # some servers take 32 bits
        except EndpointError as error:
            return Failure(why=str(error), status=error.status, attempts=error.attempts)

    def ask(prompts: Sequence[Prompt]) -> Iterator[list[Reply] | Failure]:
        with ThreadPoolExecutor(workers) as pool:
            yield from pool.map(one, prompts)

    return ask


def from_engine(
    engine: Engine, encode: Callable[[Prompt], tuple[int, ...]], params: SamplingParams, *, model: str, seed: int, think_open: bool = False
) -> Ask:
    """Ask an engine of ours. ``encode`` gives the ids of a prompt, chat template included; seeds are those of :func:`seeded`.

    Args:
        think_open: the template ends in ``<think>``, so completions start inside the thinking.
    """

    def reply(completion: Completion, prompt_tokens: int) -> Reply:
        reasoning, text = split_reasoning(completion.text, think_open=think_open)
        usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=len(completion.token_ids))
        return Reply(text=text, reasoning=reasoning, finish_reason=completion.finish_reason, usage=usage, model=model)

    def ask(prompts: Sequence[Prompt]) -> Iterator[list[Reply] | Failure]:
        requests = [
            Request(id=index, prompt_ids=encode(prompt), seeds=(prompt_seed(seed, prompt),), params=params)
            for index, prompt in enumerate(prompts)
        ]
        for request, completions in zip(requests, generate(engine, requests), strict=True):
            yield [reply(completion, len(request.prompt_ids)) for completion in completions]

    return ask


def prompt_seed(seed: int, prompt: Prompt) -> int:
    """The seed of a prompt: a function of the job's seed and the text."""
    turns = prompt if isinstance(prompt, str) else [[message.role, message.content] for message in prompt]
    return derive_seed(seed, "ask", json.dumps(turns))


def _solve(problem: Problem, prompt: str, way: str, lineage: Lineage, highlight: str | None) -> Task:
    draft = Sample(id=f"{problem.id}#{way}", problem=problem, thinking=None, summary="", lineage=lineage)

    def read(reply: Reply) -> Sample:
        thinking, summary = read_response(reply, highlight=highlight)
        return replace(draft, thinking=thinking, summary=summary)

    return Task(prompt=prompt, read=read, draft=draft)


def _refuse_silence(failures: Sequence[Failure | None]) -> None:
    """Raise :class:`AskError` where nothing at all was replied to the tasks of a chunk, which a caller may keep as it is."""
    last = failures[-1] if failures else None
    if last is None or not all(failures) or (len(failures) == 1 and last.status in _ABOUT_THE_PROMPT):
        return
    raise _gone(len(failures), last)


def _gone(count: int, last: Failure) -> AskError:
    what = f"{count} prompts in a row got no reply; the last one" if count > 1 else "the one prompt that was asked got no reply"
    return AskError(
        f"{what}: {last.why.rstrip('.')}. Nothing of this is written down. See that the endpoint is up and knows the model and the key, "
        "and that its timeout is long enough for one reply; then give the same command again"
    )


def _ask_chunk(batch: Sequence[Task | Result], ask: Ask, attempts: int) -> list[tuple[Result, Failure | None]]:
    """What becomes of each item, and why the last attempt at it got no reply if it got none."""
    found: dict[int, tuple[Result, Failure | None]] = {i: (item, None) for i, item in enumerate(batch) if not isinstance(item, Task)}
    waiting = {i: item for i, item in enumerate(batch) if isinstance(item, Task)}
    reminders = dict.fromkeys(waiting, "")
    for attempt in range(1, attempts + 1):
        if not waiting:
            break
        answers = list(ask([task.prompt + reminders[i] for i, task in waiting.items()]))
        if len(answers) != len(waiting):
            raise ValueError(f"ask must give one result per prompt; it gave {len(answers)} for {len(waiting)}")
        for (i, task), answer in zip(list(waiting.items()), answers, strict=True):
            answer = answer or Failure(why="the model gave no reply", status=200, attempts=1)
            outcome = _read_first(task, answer, attempt)
            found[i] = outcome, answer if isinstance(answer, Failure) else None
            if isinstance(outcome, Sample) or outcome.rule not in ("unreadable_reply", "no_reply"):
                del waiting[i]
            elif outcome.rule == "unreadable_reply":
                # Another prompt: at temperature 0, or behind a cache, the same one would bring the same reply.
                reminders[i] = REMINDER.format(reason=outcome.why)
    return [found[i] for i in range(len(batch))]


def _read_first(task: Task, answer: list[Reply] | Failure, attempt: int) -> Result:
    """The sample of the first readable reply, or the rejection by what was wrong with the first one."""
    again = f"asked {attempt} times"
    if isinstance(answer, Failure):
        return Rejection(sample=task.draft if attempt == 1 else task.draft.after(again), rule="no_reply", why=answer.why)
    refused: Rejection | None = None
    for reply in answer:
        try:
            result = task.read(reply)
        except Unreadable as error:
            shown = task.draft if task.draft.summary else replace(task.draft, thinking=reply.reasoning, summary=reply.text)
            result = Rejection(sample=shown, rule="unreadable_reply", why=str(error))
        if isinstance(result, Sample):
            return result if attempt == 1 else result.after(again)
        refused = refused or result
    assert refused is not None
    return refused if attempt == 1 else replace(refused, sample=refused.sample.after(again))


def _distinct(problems: Iterable[Problem]) -> Iterator[Problem]:
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise ValueError(f"two problems have the id {problem.id!r}; samples are told apart by the ids of their problems")
        seen.add(problem.id)
        yield problem

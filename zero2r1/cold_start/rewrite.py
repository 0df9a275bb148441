"""A model writes the thinking again, or the summary, or a thinking where there was none (paper supplement B.3.2; section 2.3.3).

Each function takes samples and rejections in order and yields what became of them, as those of :mod:`zero2r1.cold_start.gather` do.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from zero2r1.cold_start.gather import Ask, Asking, Result, Task, answered
from zero2r1.cold_start.prompts import BOXED, read_response, read_text, rewrite_prompt, summary_prompt, thinking_prompt
from zero2r1.rollout.openai_engine import Reply
from zero2r1.samples import Rejection, Sample
from zero2r1.types import Problem

StillRight = Callable[[Sample], bool]
"""Whether a sample whose text has changed carries the same final answer as before: a grader with its threshold, as a rule."""

TRIVIAL_PHRASES = (
    "hi", "hi there", "hello", "hello there", "hey", "hey there", "hiya", "yo", "greetings", "good morning", "good afternoon",
    "good evening", "good night", "how are you", "how are you doing", "how are you today", "whats up", "what s up", "nice to meet you",
    "thanks", "thanks a lot", "thank you", "thank you so much", "thank you very much", "thx", "ty", "many thanks", "ok thanks",
    "ok thank you", "okay thanks", "bye", "bye bye", "goodbye", "see you", "see you later", "test", "ping",
    "안녕", "안녕하세요", "안녕하십니까", "반가워", "반가워요", "반갑습니다", "고마워", "고마워요", "고맙습니다", "감사합니다", "감사해요",
    "잘 가", "잘 자", "안녕히 계세요", "안녕히 가세요", "잘 지내", "잘 지내세요",
    "你好", "您好", "你好吗", "早上好", "下午好", "晚上好", "晚安", "谢谢", "谢谢你", "多谢", "再见", "謝謝", "再見", "嗨",
    "こんにちは", "こんばんは", "おはよう", "おはようございます", "ありがとう", "ありがとうございます", "さようなら", "おやすみ", "やあ",
    "bonjour", "salut", "bonsoir", "merci", "merci beaucoup", "au revoir", "hallo", "guten morgen", "guten tag", "guten abend",
    "danke", "danke schön", "vielen dank", "tschüss", "hola", "buenos días", "buenas tardes", "buenas noches", "gracias",
    "muchas gracias", "adiós", "ciao", "buongiorno", "grazie", "olá", "oi", "bom dia", "obrigado", "obrigada", "привет",
    "здравствуйте", "спасибо", "пока", "مرحبا", "شكرا", "नमस्ते", "धन्यवाद", "สวัสดี", "ขอบคุณ", "xin chào", "cảm ơn", "merhaba", "teşekkürler",
)  # fmt: skip
"""What people say for courtesy, or to see whether anybody is there; in lower case, without punctuation. A mere "yes" or "ok" is none
of it: in a dialogue it may be the word on which much work begins."""
_LONGEST_TRIVIAL = 60
_UNSPACED = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u4e00-\u9fff]")


def rewrite(
    samples: Iterable[Result],
    ask: Ask,
    *,
    model: str,
    still_right: StillRight,
    examples: Sequence[Sample] = (),
    highlight: str | None = BOXED,
    asking: Asking | None = None,
) -> Iterator[Result]:
    """Thinking refined into readable first-person text in the problem's language, and a summary written from it.

    Rejected by rule ``changed_by_rewriting`` where the rewritten sample is no longer right, ``no_thinking`` where there is nothing
    to rewrite, ``unreadable_reply`` and ``no_reply`` as in :func:`zero2r1.cold_start.gather.few_shot`; these three keep the text
    as it was.

    Args:
        examples: samples in the wanted style, such as people have edited (the human loop of supplement B.3.2).
    """

    def task(sample: Sample) -> Task:
        def read(reply: Reply) -> Result:
            thinking, summary = read_response(reply, highlight=highlight, layout_only=True)
            new = sample.after(f"rewritten by {model}", thinking=thinking, summary=summary)
            return graded_again(sample, new, still_right, rule="changed_by_rewriting")

        return Task(prompt=rewrite_prompt(sample, examples, highlight=highlight), read=read, draft=sample)

    return answered((_with_thinking(sample, task) for sample in samples), ask, asking or Asking())


def summarize(
    samples: Iterable[Result],
    ask: Ask,
    *,
    model: str,
    still_right: StillRight,
    highlight: str | None = BOXED,
    asking: Asking | None = None,
) -> Iterator[Result]:
    """The summary written anew from the thinking, which stays as it is. Rejections as in :func:`rewrite`."""

    def task(sample: Sample) -> Task:
        def read(reply: Reply) -> Result:
            new = sample.after(f"summarized by {model}", summary=read_text(reply, "summary", highlight=highlight))
            return graded_again(sample, new, still_right, rule="changed_by_rewriting")

        return Task(prompt=summary_prompt(sample, highlight=highlight), read=read, draft=sample)

    return answered((_with_thinking(sample, task) for sample in samples), ask, asking or Asking())


def is_trivial(problem: Problem) -> bool:
    """Whether a query needs no thinking: its last message is at most 60 characters of greetings, thanks and the like.

    The rule: apart from punctuation, symbols and emoji it consists of :data:`TRIVIAL_PHRASES` and nothing else, in any number and
    order. ``"Hello!! 👋"``, ``"Hi, thanks a lot."`` and ``"안녕하세요"`` are trivial; ``"Hello, what is 2 + 2?"`` is not.
    """
    question = problem.question
    if len(question) > _LONGEST_TRIVIAL:
        return False
    letters = (c if unicodedata.category(c)[0] in "LNM" else " " for c in unicodedata.normalize("NFC", question).casefold())
    words = " ".join("".join(letters).split())
    reached = {0}  # places that a sequence of phrases leads to
    for start in range(len(words)):
        if start in reached:
            reached |= {end for phrase in TRIVIAL_PHRASES if (end := _end_of(phrase, words, start)) is not None}
    return bool(words) and len(words) in reached


def think_first(
    samples: Iterable[Result],
    ask: Ask,
    *,
    model: str,
    categories: Collection[str] | None = None,
    trivial: Callable[[Problem], bool] = is_trivial,
    asking: Asking | None = None,
) -> Iterator[Result]:
    """General data with a thinking before the answer, which stays as it is (section 2.3.3: chosen tasks; none for "hello").

    Trivial queries end up without thinking, and a step of the lineage says so. Samples of other categories, and those that have a
    thinking already, pass through. Rejected by rule ``no_answer`` where there is no answer to think about (gather one with
    :func:`zero2r1.cold_start.gather.direct`), ``unreadable_reply`` and ``no_reply``.

    Args:
        categories: the ``domain`` of the problems that get a thinking; ``None``: all.
    """

    def work(sample: Result) -> Task | Result:
        if isinstance(sample, Rejection) or (categories is not None and sample.problem.domain not in categories):
            return sample
        if not sample.summary.strip():
            return Rejection(sample=sample, rule="no_answer", why="there is no answer that a thinking could come before")
        if trivial(sample.problem):
            return sample.after("answered without thinking: trivial", thinking=None)
        if sample.thinking is not None:
            return sample

        def read(reply: Reply) -> Sample:
            thinking = read_text(reply, "reasoning")
            return sample.after(f"thinking by {model}", thinking=thinking, measured=_of_the_answer(sample.measured))

        return Task(prompt=thinking_prompt(sample), read=read, draft=sample)

    return answered((work(sample) for sample in samples), ask, asking or Asking())


def graded_again(old: Sample, new: Sample, still_right: StillRight, *, rule: str) -> Result:
    """The sample after a change of its text, or its rejection by ``rule``.

    What was measured, was measured on the old text and is dropped; the accuracy alone stays, with the final answer.
    """
    new = replace(new, measured={})
    if not still_right(new):
        return Rejection(sample=new, rule=rule, why=f"{new.lineage.steps[-1]}: its final answer is no longer right")
    return replace(new, measured=_of_the_answer(old.measured))


def _of_the_answer(measured: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in measured.items() if name == "accuracy"}


def _with_thinking(sample: Result, task: Callable[[Sample], Task]) -> Task | Result:
    if isinstance(sample, Rejection):
        return sample
    if not (sample.thinking or "").strip():
        return Rejection(sample=sample, rule="no_thinking", why="there is no thinking to write from")
    return task(sample)


def _end_of(phrase: str, words: str, start: int) -> int | None:
    """Where the next phrase may begin if this one stands at ``start``. Between words of scripts that write spaces there is one."""
    end = start + len(phrase)
    if not words.startswith(phrase, start):
        return None
    if end == len(words):
        return end
    if words[end] == " ":
        return end + 1
    return end if _UNSPACED.match(words[end]) and _UNSPACED.match(words[end - 1]) else None

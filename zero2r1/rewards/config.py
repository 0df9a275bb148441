"""Settings of the readability rules and of rejection sampling (paper, section 2.3.3).

The paper names what it removes (mixed languages, long paragraphs, code blocks) and keeps several correct responses a prompt, but
gives no threshold and no number: everything here is "not stated", and the comment says what the default was chosen for.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from zero2r1.config import Settings

Share = Annotated[float, Field(ge=0, le=1)]


class ReadabilitySettings(Settings):
    """Thresholds of :data:`zero2r1.rewards.readability.RULES`. A text on the threshold passes."""

    language_share: Share = 0.95  # one word in twenty: names, a quoted word
    # Korean, Chinese, ... write technical terms in Latin letters, in one word of five where they stand close.
    language_share_beside_latin: Share = 0.8
    foreign_sentence_words: int = Field(4, ge=1)  # a sentence that long and mostly in another language is no term but mixing

    # Thinking that is pleasant to read seldom has a paragraph beyond 180 words; a wall of text has no end.
    paragraph_words: int = Field(250, ge=1)
    paragraph_characters: int = Field(450, ge=1)  # of Han, kana, ...: 250 English words are about 450 Chinese characters
    line_breaks_end_paragraphs: bool = True  # thinking is shown as it was written; lists and derivations have no blank lines

    code_lines: int = Field(2, ge=1)  # one line alone may be a quotation; two are a program

    # Long n-grams: a derivation repeats its formulas, which are short, and a loop repeats everything.
    repetition_n: int = Field(12, ge=1)
    repetition_share: Share = 0.3
    loop_sentences: int = Field(4, ge=2)  # "No. No. No." may be a thought; four times the same is a loop
    loop_words: int = Field(8, ge=2)


class RejectionSettings(Settings):
    """From candidates to kept samples: :func:`zero2r1.rejection_sampling.select`."""

    kept_per_prompt: int = Field(4, ge=1)
    # Which of a problem's samples come first. "seeded" leaves the lengths as the policy chose them; "shortest" shifts them.
    order: Literal["seeded", "shortest"] = "seeded"
    near_duplicate: float | None = Field(None, gt=0, le=1)  # n-grams in common over all n-grams, from which on two are the same
    near_duplicate_n: int = Field(5, ge=1)
    mix: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=0)]] = (600, 200)  # reasoning : general, as in the paper
    seed: int = Field(0, ge=0)
    readability: ReadabilitySettings = ReadabilitySettings()

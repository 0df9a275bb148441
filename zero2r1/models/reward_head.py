"""A causal language model with a scalar head in place of its vocabulary: score = w . h, h the hidden state of the last real token.

On disk it is a folder that ``AutoModelForSequenceClassification`` loads. That class finds the last token of a padded row as the last
one that is not ``config.pad_token_id``, so the pad saved here is never a token that ends a response (many chat models pad with their
end-of-turn token, and would be scored one token early).

Shapes: T packed tokens, S responses.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from zero2r1.models.attention import AttentionLayout, backbone_forward, use_packed_attention
from zero2r1.models.tokenizer import load_tokenizer

CARD = "reward_model.json"
_HEAD = "score.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardCard:
    """What must be known of a reward model to use it; ``reward_model.json`` in its folder."""

    kind: Literal["preference", "safety"]
    view: Literal["summary", "response"]
    """What it reads of a response."""
    mean: float = 0.0
    """Mean of its scores over held-out responses."""
    std: float = 1.0
    """Their standard deviation."""


def load_reward_model(
    folder: str | Path, *, device: torch.device, seed: int = 0, head_std: float = 0.02
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A scalar reward model in float32 with packed attention, and its tokenizer. No code from the folder is run.

    Args:
        folder: a reward model that was saved, or a causal language model, which gets a new head.
        seed, head_std: the new head's weights are drawn from N(0, head_std^2).

    Raises:
        ValueError: the folder cannot be loaded, or the architecture has no sequence classifier of this form.
    """
    disable_progress_bar()
    if not Path(folder).exists() and "/" not in str(folder):  # no Hub name: nothing to ask the network for
        raise ValueError(f"E404 model: there is no folder {folder}. Give a folder with a model, or a Hub name (owner/model)")
    try:
        config = AutoConfig.from_pretrained(folder, num_labels=1, trust_remote_code=False)
        with _without_load_report():
            model, found = AutoModelForSequenceClassification.from_pretrained(
                folder, config=config, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
            )
        tokenizer = load_tokenizer(folder)
    except OSError as error:
        raise ValueError(
            f"E404 model: {folder} is neither a folder with a model nor in the local cache, and it could not be fetched. "
            f"On a machine with network:  hf download {folder}  and copy the folder, then  --model=/path/to/it"
        ) from error
    missing = sorted(found["missing_keys"])
    if not hasattr(model, "score") or model.score.weight.shape[0] != 1 or set(missing) - {_HEAD}:
        raise ValueError(
            f"{folder} does not become a reward model: {type(model).__name__} needs one linear head `score` over a backbone whose weights "
            f"are all in the folder, missing are {missing[:3]}. Give a causal language model such as Llama or Qwen, or a saved reward model"
        )
    if missing:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            model.score.weight.copy_(torch.randn(model.score.weight.shape, generator=generator) * head_std)
    use_packed_attention(model)
    return model.eval().to(device), tokenizer


def pad_unlike(tokenizer: PreTrainedTokenizerFast, ends: frozenset[int]) -> int:
    """An id to pad with that ends no response: the tokenizer's own, or else another special token.

    Raises:
        ValueError: every special token of the tokenizer ends responses.
    """
    candidates = [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id, *tokenizer.all_special_ids]
    for candidate in (*candidates, *tokenizer.added_tokens_decoder):
        if isinstance(candidate, int) and candidate not in ends:
            return candidate
    raise ValueError(
        f"this tokenizer has no special token beside those that end a response ({sorted(ends)}), so padding could not be told from an end. "
        "Add a pad token to it"
    )


def save_reward_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, *, card: RewardCard, ends: frozenset[int]
) -> None:
    """An ordinary folder for ``AutoModelForSequenceClassification``, the tokenizer beside it, and the card.

    Args:
        ends: every id that a response ends with; the pad is another one.
    """
    disable_progress_bar()
    pad = pad_unlike(tokenizer, ends)
    model.config.pad_token_id, model.config.num_labels = pad, 1
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / CARD).write_text(json.dumps(asdict(card), indent=1) + "\n", encoding="utf-8")


def read_card(folder: str | Path) -> RewardCard:
    """The card of a saved reward model.

    Raises:
        ValueError: the folder has none, or one that cannot be used.
    """
    path = Path(folder) / CARD
    try:
        card = RewardCard(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is missing or no card of a reward model ({error}). Train one:  "
            "zero2r1 train rm --model FOLDER --data.train PAIRS.jsonl --kind preference"
        ) from error
    if card.kind not in ("preference", "safety") or card.view not in ("summary", "response") or not card.std > 0:
        raise ValueError(f"{path} says kind {card.kind!r}, view {card.view!r}, std {card.std}, of which one is not known")
    return card


def packed_scores(model: PreTrainedModel, input_ids: Tensor, position_ids: Tensor, layout: AttentionLayout, last: Tensor) -> Tensor:
    """Scores [S] in float32 of the responses whose last tokens stand at the packed positions ``last`` [S] of ``input_ids`` [T]."""
    hidden = backbone_forward(model, input_ids, position_ids, layout).index_select(0, last)
    head = model.get_submodule("score")
    assert isinstance(head, nn.Linear)
    with torch.autocast(hidden.device.type, enabled=False):
        scores: Tensor = head(hidden.to(head.weight.dtype))[:, 0]
    return scores


@contextmanager
def _without_load_report() -> Iterator[None]:
    """A head that is missing and a vocabulary that is not wanted are no news here."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)

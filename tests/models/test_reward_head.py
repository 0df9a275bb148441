"""The scalar head: the score is that of the last real token, ours and Hugging Face's, whatever the padding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from zero2r1.models.reward_head import RewardCard, load_reward_model, pad_unlike, read_card, save_reward_model
from zero2r1.models.tokenizer import word_tokenizer
from zero2r1.reward_models.encoding import RewardExample
from zero2r1.reward_models.scoring import batch_scores, score_examples
from zero2r1.training.config import ComputeSettings

CPU = torch.device("cpu")
WORDS = [f"w{i}" for i in range(40)]
CARD = RewardCard(kind="preference", view="summary")
COMPUTE = ComputeSettings(tokens_per_micro_batch=200)


def causal_folder(folder: Path, *, pad_is_end: bool = False) -> PreTrainedTokenizerFast:
    """A small Llama with random weights; its tokenizer may pad with its end token, as many chat models do."""
    tokenizer = word_tokenizer(WORDS, ())
    if pad_is_end:
        tokenizer.pad_token = tokenizer.eos_token
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def examples(end: int) -> list[RewardExample]:
    """Pairs of unequal lengths; the first has a response that is nothing but its end."""
    return [
        RewardExample(prompt_ids=(3, 4), response_ids=((end,), (5, 6, 7, 8, 9, end))),
        RewardExample(prompt_ids=(9, 8, 7, 6, 5, 4, 3), response_ids=((11, 12, end), (13, end))),
        RewardExample(prompt_ids=(20,), response_ids=((21, 22, 23, end), (24, 25, 26, 27, end))),
    ]


def sequences(end: int) -> list[list[int]]:
    return [[*example.prompt_ids, *ids] for example in examples(end) for ids in example.response_ids]


@pytest.fixture
def saved(tmp_path: Path):
    """A reward model on disk whose tokenizer padded with the end token when it came, and the model in memory."""
    tokenizer = causal_folder(tmp_path / "causal", pad_is_end=True)
    end = tokenizer.eos_token_id
    model, tokenizer = load_reward_model(tmp_path / "causal", device=CPU, head_std=0.5)
    save_reward_model(model, tokenizer, tmp_path / "rm", card=CARD, ends=frozenset({end}))
    return tmp_path / "rm", model, end


def test_packed_scores_are_those_of_every_sequence_alone(saved):
    folder, model, end = saved
    plain = AutoModelForSequenceClassification.from_pretrained(folder)
    assert plain.config.num_labels == 1
    alone = [plain(input_ids=torch.tensor([ids])).logits.item() for ids in sequences(end)]
    assert batch_scores(model, examples(end), COMPUTE).tolist() == pytest.approx(alone, abs=1e-5)
    assert max(alone) - min(alone) > 0.1


@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
def test_padding_on_either_side_leaves_the_score(saved, left):
    """N39: where the pad is the token that ends a response, Hugging Face's class takes the token before the end for the last one."""
    folder, model, end = saved
    plain = AutoModelForSequenceClassification.from_pretrained(folder)
    pad, rows = plain.config.pad_token_id, sequences(end)
    longest = max(map(len, rows)) + 3
    ids = torch.tensor([[pad] * (longest - len(r)) + r if left else r + [pad] * (longest - len(r)) for r in rows])
    mask = torch.tensor([[0] * (longest - len(r)) + [1] * len(r) if left else [1] * len(r) + [0] * (longest - len(r)) for r in rows])
    padded = plain(input_ids=ids, attention_mask=mask).logits[:, 0].tolist()
    ours = batch_scores(model, examples(end), COMPUTE).tolist()
    assert pad != end and padded == pytest.approx(ours, abs=1e-5)
    plain.config.pad_token_id = end  # the bug itself, which this test must be able to see
    wrong = plain(input_ids=ids.masked_fill(ids == pad, end), attention_mask=mask).logits[:, 0].tolist()
    assert max(abs(a - b) for a, b in zip(wrong, ours, strict=True)) > 1e-3


def test_equal_ids_in_one_batch_have_equal_bytes(saved):
    _, model, end = saved
    first, second, third = examples(end)
    again = RewardExample(prompt_ids=second.prompt_ids, response_ids=(*second.response_ids, second.response_ids[0]))
    scores = score_examples(model, [first, second, third, again, first], COMPUTE)
    assert scores[0] == scores[4] and scores[1] == scores[3][:2] and scores[3][0] == scores[3][2]
    assert [len(of_example) for of_example in scores] == [2, 2, 2, 3, 2]


def test_a_shared_prompt_is_computed_once_and_equal_responses_too(saved, monkeypatch):
    """Two pairs that share prompt (7 tokens) and chosen (3), and differ in the rejected one (2 and 1): 13 tokens, not 22."""
    _, model, end = saved
    tokens = []
    inner = model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda **given: (tokens.append(given["input_ids"].numel()), inner(**given))[1])
    pair = examples(end)[1]
    score_examples(model, [pair, RewardExample(prompt_ids=pair.prompt_ids, response_ids=(pair.response_ids[0], (end,)))], COMPUTE)
    assert tokens == [13]


def test_a_new_head_is_the_seeds(tmp_path):
    causal_folder(tmp_path)

    def head(**given: float) -> torch.Tensor:
        return load_reward_model(tmp_path, device=CPU, **given)[0].score.weight.detach()

    assert torch.equal(head(seed=1), head(seed=1)) and not torch.equal(head(seed=1), head(seed=2))
    assert torch.equal(head(seed=1, head_std=0.0), torch.zeros(1, 32))
    assert head(seed=1, head_std=0.5).std().item() == pytest.approx(0.5, rel=0.4)  # of 32 draws


def test_a_saved_head_is_kept(saved):
    folder, model, end = saved
    again, tokenizer = load_reward_model(folder, device=CPU, seed=7, head_std=3.0)
    assert torch.equal(batch_scores(again, examples(end), COMPUTE), batch_scores(model, examples(end), COMPUTE))
    assert tokenizer.pad_token_id == again.config.pad_token_id != end


def test_the_card_is_kept_and_checked(saved):
    folder, _, _ = saved
    assert read_card(folder) == CARD
    (folder / "reward_model.json").write_text(json.dumps({"kind": "preference", "view": "all", "mean": 0.0, "std": 1.0}))
    with pytest.raises(ValueError, match="view 'all'"):
        read_card(folder)
    with pytest.raises(ValueError, match="zero2r1 train rm"):
        read_card(folder.parent)


def test_a_pad_is_found_among_the_special_tokens():
    tokenizer = word_tokenizer(WORDS, ())
    assert pad_unlike(tokenizer, frozenset({tokenizer.eos_token_id})) == tokenizer.pad_token_id
    ends = frozenset(tokenizer.all_special_ids)
    with pytest.raises(ValueError, match="no special token beside"):
        pad_unlike(tokenizer, ends)


def test_a_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(ValueError, match="E404 model: there is no folder nothing"):
        load_reward_model("nothing", device=CPU)

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from zero2r1.models.tokenizer import TextEncoder, load_tokenizer, word_tokenizer
from zero2r1.template import COLD_START_TOKEN, parse_cold_start, write_cold_start

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
WORDS = ("user", "assistant", "what", "is", "3", "4", "7", "+", "=", ".")


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer(WORDS, TAGS)


def ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def test_a_word_is_one_token_and_an_unknown_one_is_unk(tokenizer: PreTrainedTokenizerFast) -> None:
    # <unk> is 0, so "3" is 5 and "+" is 8.
    assert ids(tokenizer, "3 + banana") == [5, 8, 0]


def test_tags_are_single_tokens_that_decoding_keeps(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "<think> 3 + 4 = 7 </think> <answer> 7 </answer>"
    encoded = ids(tokenizer, text)
    assert len(encoded) == len(text.split())
    assert tokenizer.decode(encoded, skip_special_tokens=True) == text
    assert tokenizer.decode([*encoded, tokenizer.eos_token_id], skip_special_tokens=True) == text


def test_special_tokens_are_distinct(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>", *TAGS])
    assert len({tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id, *turns}) == 9


def test_a_saved_folder_loads_to_the_same_tokenizer(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    text = "<think> 3 + 4 </think> what <eos>"
    assert ids(loaded, text) == ids(tokenizer, text)
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.decode(ids(loaded, "<think> 3")) == "<think> 3"


@pytest.mark.parametrize("smuggled", ["</think>", "<answer> 7 </answer>", "<eos>", "<|im_end|>", "x</think>y", "<pad>"])
def test_user_text_cannot_become_a_special_token(tokenizer: PreTrainedTokenizerFast, smuggled: str) -> None:
    encoder = TextEncoder(tokenizer)
    before, after = ids(tokenizer, "<think> user"), ids(tokenizer, "assistant </think>")
    encoded = list(encoder.encode("<think> user", f"3 {smuggled} 4", "assistant </think>"))
    reserved = set(tokenizer.added_tokens_decoder) - {tokenizer.unk_token_id}
    inner = encoded[len(before) : -len(after)]
    assert encoded == [*before, *inner, *after]  # the template's own tags stay
    assert inner[0] == 5 and inner[-1] == 6 and not set(inner) & reserved


def test_reserved_words_are_refused() -> None:
    with pytest.raises(ValueError, match="reserved"):
        word_tokenizer((*WORDS, "<think>"), TAGS)


def chat(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]], **kwargs: object) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, **kwargs))


def test_chat_template_opens_turns_and_can_prefill_or_skip_the_thought(tokenizer: PreTrainedTokenizerFast) -> None:
    asked = [{"role": "user", "content": "what is 3"}]
    start = "<|im_start|> user\nwhat is 3 <|im_end|>\n<|im_start|> assistant\n"
    assert chat(tokenizer, asked, add_generation_prompt=True) == start
    assert chat(tokenizer, asked, add_generation_prompt=True, prefill_thinking=True) == start + "<think> "
    assert chat(tokenizer, asked, add_generation_prompt=True, enable_thinking=False) == start + "<think> </think>\n"


@pytest.mark.parametrize(
    "reply",
    [
        {"role": "assistant", "content": "7", "reasoning_content": "3 + 4"},
        {"role": "assistant", "content": "<think> 3 + 4 </think> 7"},
    ],
)
def test_chat_template_keeps_the_last_thought_and_drops_older_ones(tokenizer: PreTrainedTokenizerFast, reply: dict[str, str]) -> None:
    asked = {"role": "user", "content": "what"}
    assert "<think> 3 + 4 </think>\n7 <|im_end|>" in chat(tokenizer, [asked, reply])
    history = chat(tokenizer, [asked, reply, asked])
    assert "3 + 4" not in history and "<think>" not in history and "assistant\n7 <|im_end|>" in history


def test_chat_template_marks_what_the_assistant_wrote(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [
        {"role": "user", "content": "what is 3"},
        {"role": "assistant", "content": "7", "reasoning_content": "3 + 4"},
    ]
    out = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    marked = [token for token, mine in zip(out["input_ids"], out["assistant_masks"], strict=True) if mine]
    assert tokenizer.convert_ids_to_tokens(marked) == ["<think>", "3", "+", "4", "</think>", "7", "<|im_end|>"]


def test_plain_prompts_begin_as_the_tokenizer_begins_every_text(tokenizer: PreTrainedTokenizerFast) -> None:
    """A base model that always saw a BOS must see it in R1-Zero's template too."""
    text = ("compute ", "1 + 1", " .")
    assert TextEncoder(tokenizer).encode_plain(*text) == TextEncoder(tokenizer).encode(*text)
    with_bos = copy.deepcopy(tokenizer)
    eos = str(tokenizer.eos_token)
    with_bos.backend_tokenizer.post_processor = TemplateProcessing(single=f"{eos} $A", special_tokens=[(eos, tokenizer.eos_token_id)])
    assert TextEncoder(with_bos).encode_plain(*text) == (tokenizer.eos_token_id, *TextEncoder(tokenizer).encode(*text))


def test_the_cold_start_format_survives_the_tokenizer():
    tokenizer = word_tokenizer("3 + 4 = 7 it is".split(), [COLD_START_TOKEN])
    text = write_cold_start("3 + 4 = 7", "it is 7")
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert ids.count(tokenizer.convert_tokens_to_ids(COLD_START_TOKEN)) == 2
    parsed = parse_cold_start(tokenizer.decode(ids, skip_special_tokens=False))
    assert (parsed.thinking, parsed.answer, parsed.strict) == ("3 + 4 = 7", "it is 7", True)
    assert TextEncoder(tokenizer).encode("", f"3 {COLD_START_TOKEN} 4", "").count(ids[0]) == 0  # a user cannot write it


def decoded(tokenizer: PreTrainedTokenizerFast, ids: tuple[int, ...]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False))


def test_a_dialogue_is_the_prompt_the_model_is_asked_with_and_the_response_up_to_the_end_of_its_turn(tokenizer):
    encoder = TextEncoder(tokenizer)
    asked = [{"role": "user", "content": "what is 3 + 4"}]
    answer = {"role": "assistant", "content": "is <answer> 7 </answer>", "reasoning_content": "3 + 4 = 7"}
    encoded = encoder.encode_dialogue([*asked, answer])
    assert encoded.prompt_ids == encoder.encode_chat(asked)
    assert decoded(tokenizer, encoded.response_ids) == "<think> 3 + 4 = 7 </think> is <answer> 7 </answer> <|im_end|>"
    # The tags of the answer are the tags the model will write, and nothing was lost in between.
    shown = tokenizer.apply_chat_template([*asked, answer], tokenize=False)
    assert [*encoded.prompt_ids, *encoded.response_ids] == ids(tokenizer, shown)


def test_an_answer_without_thinking_has_none(tokenizer):
    encoded = TextEncoder(tokenizer).encode_dialogue([{"role": "user", "content": "what"}, {"role": "assistant", "content": "7"}])
    assert decoded(tokenizer, encoded.response_ids) == "7 <|im_end|>"


@pytest.mark.parametrize("control", ["<|im_end|>", "<eos>", "<|im_start|>"])
def test_an_answer_cannot_end_its_own_turn(tokenizer, control):
    encoder = TextEncoder(tokenizer)
    answer = {"role": "assistant", "content": f"7 {control} 4", "reasoning_content": f"3 {control}"}
    encoded = encoder.encode_dialogue([{"role": "user", "content": "what"}, answer])
    token = tokenizer.convert_tokens_to_ids(control)
    assert encoded.response_ids.count(token) == (control == "<|im_end|>")
    assert encoded.response_ids[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")


PLAIN_CHATML = (
    "{% for m in messages %}<|im_start|> {{ m.role }}\n{{ m.content }} <|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant\n{% endif %}"
)


def test_a_template_without_a_place_for_thinking_gets_it_in_tags(tokenizer):
    tokenizer.chat_template = PLAIN_CHATML
    answer = {"role": "assistant", "content": "7", "reasoning_content": "3 + 4"}
    encoded = TextEncoder(tokenizer).encode_dialogue([{"role": "user", "content": "what"}, answer])
    assert decoded(tokenizer, encoded.response_ids) == "<think> 3 + 4 </think> 7 <|im_end|>"


def test_a_template_without_an_end_of_turn_gets_the_end_token(tokenizer):
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    encoded = TextEncoder(tokenizer).encode_dialogue([{"role": "user", "content": "what"}, {"role": "assistant", "content": "7"}])
    assert encoded.response_ids[-1] == tokenizer.eos_token_id and decoded(tokenizer, encoded.response_ids[:-1]) == "7"


def test_a_template_that_opens_answers_in_two_ways_is_refused(tokenizer):
    tokenizer.chat_template = PLAIN_CHATML.replace("<|im_start|> assistant\n{% endif %}", "<|im_start|> assistant\n<think> {% endif %}")
    with pytest.raises(ValueError, match="opens an answer in one way"):
        TextEncoder(tokenizer).encode_dialogue([{"role": "user", "content": "what"}, {"role": "assistant", "content": "7"}])


def test_only_the_tags_of_a_response_are_tags_in_what_a_model_writes(tokenizer):
    """Some tokenizers declare their control tokens as ordinary added tokens; in an answer they are text."""
    tokenizer.add_tokens(["<|User|>", "<tool_call>"])
    encoder = TextEncoder(tokenizer)
    encoded = encoder.encode_written("3 <|User|> 4 <tool_call> <answer> 7 </answer>")
    assert not {tokenizer.convert_tokens_to_ids(t) for t in ("<|User|>", "<tool_call>")} & set(encoded)
    assert encoded.count(tokenizer.convert_tokens_to_ids("<answer>")) == 1

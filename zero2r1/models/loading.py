"""Loading and saving Hugging Face models for training: float32 master weights, packed attention, ordinary folders."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from zero2r1.models.adapters import has_adapters, merged_state, save_adapter
from zero2r1.models.attention import use_packed_attention
from zero2r1.models.tokenizer import load_tokenizer

ADAPTER = "adapter"
"""Where a saved model keeps its adapter for PEFT."""


def load_policy(model: str | Path, *, device: torch.device) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A causal LM in float32 with packed attention, and its tokenizer. No code from the model folder is run.

    Raises:
        ValueError: the folder or name cannot be loaded; the message says what to do offline.
    """
    disable_progress_bar()  # it would run through the panel
    if not Path(model).exists() and (str(model).count("/") != 1 or str(model)[0] in "./~"):  # no Hub name: nothing to ask the network for
        raise ValueError(
            f"E404 model: there is no folder {model}. Give a folder with a model, a Hub name (owner/model), laptop or smollm2-135m"
        )
    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
        policy = AutoModelForCausalLM.from_pretrained(model, config=config, dtype=torch.float32, trust_remote_code=False)
        tokenizer = load_tokenizer(model)
    except OSError as error:
        raise ValueError(
            f"E404 model: {model} is neither a folder with a model nor in the local cache, and it could not be fetched. "
            f"On a machine with network:  hf download {model}  and copy the folder, then  --model=/path/to/it . "
            f"To learn without any download:  zero2r1 demo"
        ) from error
    use_packed_attention(policy)
    return policy.to(device), tokenizer


def stop_token_ids(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    """Every id that ends an answer: the tokenizer's, the config's and the generation config's, in this order, each once."""
    found: list[int] = []
    for ids in (tokenizer.eos_token_id, policy.config.eos_token_id, policy.generation_config.eos_token_id):
        found += [ids] if isinstance(ids, int) else list(ids or ())
    if not found:
        raise ValueError("E202 tokenizer: this model names no end token, so no answer would ever end. Set eos_token in its tokenizer")
    return tuple(dict.fromkeys(found))


def save_policy(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, *, stops: tuple[int, ...]) -> None:
    """An ordinary folder that transformers, vLLM and PEFT load; its generation config lists every stop id.

    Adapters are merged into its weights, and stand in its folder ``adapter`` in PEFT's format as well.
    """
    disable_progress_bar()
    policy.generation_config = GenerationConfig(eos_token_id=list(stops), pad_token_id=tokenizer.pad_token_id, do_sample=True)
    adapted = has_adapters(policy)
    policy.save_pretrained(folder, state_dict=merged_state(policy) if adapted else None)
    tokenizer.save_pretrained(folder)
    if adapted:
        save_adapter(policy, folder / ADAPTER)


def checkpoint_activations(policy: PreTrainedModel) -> None:
    """Keep only each layer's input in training mode and compute the rest again on the way back: less memory, more time."""
    kwargs = {"use_reentrant": False}
    if hasattr(policy, "activation_checkpointing_enable"):  # the newer name
        policy.activation_checkpointing_enable(kwargs)
    else:
        policy.gradient_checkpointing_enable(kwargs)


def local_folder(model: str | Path) -> Path:
    """The folder of a model: itself, or where the hub's files of that name are kept, fetched if they are not.

    Raises:
        ValueError: neither a folder nor to be had from the hub.
    """
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(model)))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"E404 model: {model} is neither a folder nor in the local cache, and it could not be fetched. On a machine with network:  "
            f"hf download {model}  and copy the folder, then  --model=/path/to/it"
        ) from error


def has_chat_template(folder: str | Path) -> bool:
    """Whether the tokenizer of a folder can render a dialogue."""
    return bool(load_tokenizer(folder).chat_template)

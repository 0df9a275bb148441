"""LoRA by settings: every command that trains takes it, its results are ordinary models, and what it cannot do is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.pipeline.tiny_stage import small, untrained
from zero2r1.config import ConfigError, dump, load_settings
from zero2r1.models.adapters import adapter_parameters, has_adapters
from zero2r1.pipeline.api import train_zero
from zero2r1.pipeline.config import RlSettings, SftStageSettings, ZeroSettings
from zero2r1.pipeline.distill_config import DistillSettings
from zero2r1.pipeline.distilling import student_stage
from zero2r1.pipeline.laptop import laptop_world
from zero2r1.pipeline.narration import Narrator
from zero2r1.pipeline.recipe import PipelineSettings
from zero2r1.pipeline.single import run_sft_stage
from zero2r1.run_dir import RunDir

LORA = {"rank": 2, "alpha": 4.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return untrained(tmp_path_factory.mktemp("model") / "base")


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.arange(5, 25)[None]).logits


def right_or_varied(completions, completion_ids, answer, **columns):
    """2 for what is right; else something that differs between outputs, so that even an untrained model has something to learn."""
    return [2.0 if f" {gold} " in text else len(set(ids)) / 12 for text, ids, gold in zip(completions, completion_ids, answer, strict=True)]


def test_rl_hands_back_an_ordinary_model_that_is_the_one_in_its_folder(model, tmp_path):
    world = laptop_world(seed=0, train=4, held_out=4)
    settings = small(lora=LORA, optimizer={"learning_rate": 0.1}, grpo={"mini_batches": 1, "beta": 0.01, "reference_reset_steps": 1})
    result = train_zero(model, world.train, right_or_varied, held_out=world.held_out, settings=settings, runs=tmp_path)
    assert not has_adapters(result.model)
    saved = (result.run / "checkpoints" / "latest" / "model").resolve()
    assert json.loads((saved / "adapter" / "adapter_config.json").read_text())["r"] == 2
    found = AutoModelForCausalLM.from_pretrained(saved).eval()
    torch.testing.assert_close(logits(found), logits(result.model), atol=1e-5, rtol=0)
    assert (logits(found) - logits(AutoModelForCausalLM.from_pretrained(model).eval())).abs().max() > 1e-3


def test_sft_trains_adapters_and_leaves_an_ordinary_model(model, tmp_path):
    rows = [{"messages": [{"role": "user", "content": f"compute {i}"}, {"role": "assistant", "content": f"it is {i} ."}]} for i in range(4)]
    (tmp_path / "dialogues.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"epochs": 1, "batch_size": 2, "max_length": 64, "lora": LORA, "data": {"train": str(tmp_path / "dialogues.jsonl")}}
    settings = SftStageSettings.model_validate({"model": str(model), **given})
    run = RunDir.start(tmp_path / "run", command=[], config="", seed=0)
    run_sft_stage(settings, run, narrator=Narrator(), should_stop=lambda: False)
    base, found = (AutoModelForCausalLM.from_pretrained(f).eval() for f in (model, tmp_path / "run" / "checkpoints" / "latest" / "model"))
    changed = [name for name, tensor in found.state_dict().items() if not torch.equal(tensor, base.state_dict()[name])]
    assert changed and all(name.endswith("_proj.weight") for name in changed)


def test_a_student_gets_the_adapters_of_its_method(model):
    given = {"model": str(model), "sft": {"lora": {"rank": 2}}, "on_policy": {"lora": {"rank": 3}}, "data": {"prompts": "laptop"}}
    student = student_stage(DistillSettings.model_validate({**given, "data": {}}), Narrator()).policy
    assert {min(p.shape) for p in adapter_parameters(student).values()} == {2}
    student = student_stage(DistillSettings.model_validate({**given, "method": "on_policy"}), Narrator()).policy
    assert {min(p.shape) for p in adapter_parameters(student).values()} == {3}


@pytest.mark.parametrize(("kind", "flag"), [(ZeroSettings, ""), (PipelineSettings, "zero."), (DistillSettings, "on_policy.")])
def test_several_sampling_processes_are_refused_before_anything_is_started(kind, flag):
    flags = [f"--{flag}lora.rank=2", f"--{flag}rollout.processes=2"]
    with pytest.raises(ConfigError, match=r"rollout.processes is 2, (.|\n)* Set rollout.processes: 1 (.|\n)*Nothing was started"):
        load_settings(kind, flags=flags)


def test_a_student_that_is_measured_by_several_processes_is_refused_before_it_is_loaded(model):
    given = {"model": str(model), "sft": {"lora": LORA}, "on_policy": {"rollout": {"processes": 2}}}
    with pytest.raises(ValueError, match="Set rollout.processes: 1"):
        student_stage(DistillSettings.model_validate(given), Narrator())


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (ZeroSettings, "lora"), (RlSettings, "lora"), (SftStageSettings, "lora"), (DistillSettings, "sft.lora"),
        (DistillSettings, "on_policy.lora"), (PipelineSettings, "zero.lora"), (PipelineSettings, "cold_start.sft.lora"),
        (PipelineSettings, "reasoning_rl.lora"), (PipelineSettings, "rejection_sft.sft.lora"), (PipelineSettings, "all_scenarios.lora"),
        (PipelineSettings, "distillation.sft.lora"), (PipelineSettings, "student_rl.lora"),
    ],
)  # fmt: skip
def test_one_setting_turns_it_on_and_none_leaves_it_off(kind, path):
    def lora(*flags):
        value = load_settings(kind, flags=flags)
        for name in path.split("."):
            value = getattr(value, "settings", value)
            value = getattr(value, name)
        return value

    assert lora() is None
    assert lora(f"--{path}.rank=8").model_dump() == {"rank": 8, "alpha": 64.0, "targets": ()}
    assert lora(f"--{path}={{}}").model_dump() == {"rank": 32, "alpha": 64.0, "targets": ()}
    assert lora(f"--{path}.targets=[q_proj, v_proj]").targets == ("q_proj", "v_proj")
    assert "lora: null  # default" in dump(load_settings(kind))


def test_a_section_of_a_recipe_reaches_the_stage_it_describes():
    settings = load_settings(PipelineSettings, flags=["--reasoning_rl.lora.rank=8", "--seed=3"]).settings
    assert settings.rl_settings(settings.reasoning_rl).lora.rank == 8 and settings.rl_settings(settings.zero).lora is None

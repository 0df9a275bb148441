"""What is put away between uses comes back the same. On a CPU nothing moves; tests/grpo/test_devices.py has the GPU's side."""

from __future__ import annotations

import pytest
import torch

from tests.tiny_models import tiny_llama
from tests.toy_run import curve, toy_policy, toy_settings, toy_trainer
from zero2r1.grpo.reference import CopiedReference, reference_of
from zero2r1.models.adapters import add_lora
from zero2r1.training.offload import keep_state_on_host
from zero2r1.training.optimizer import build_adamw


def with_offload(settings, *what):
    grpo = settings.grpo.model_copy(update={"beta": 0.05})
    return settings.model_copy(update={"compute": settings.compute.model_copy(update={"offload": what}), "grpo": grpo})


@pytest.mark.parametrize("what", [("reference",), ("optimizer",), ("reference", "optimizer")])
def test_a_run_learns_the_same_with_it(tmp_path, what):
    for name, offload in (("with", what), ("without", ())):
        toy_trainer(tmp_path / name, with_offload(toy_settings(steps=4, prompts=4, group_size=4), *offload))[0].train()
    assert curve(tmp_path / "with") == curve(tmp_path / "without")


def test_a_run_that_was_interrupted_goes_on_with_it(tmp_path):
    settings = with_offload(toy_settings(steps=4, prompts=4, group_size=4), "reference", "optimizer")
    settings = settings.model_copy(update={"checkpoint_every": 2})
    toy_trainer(tmp_path / "whole", settings)[0].train()
    toy_trainer(tmp_path / "parts", settings.model_copy(update={"steps": 2}))[0].train()
    toy_trainer(tmp_path / "parts", settings)[0].train()
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")


def test_on_a_cpu_no_tensor_moves():
    policy = tiny_llama()
    reference = CopiedReference(policy, offload=True)
    before = [parameter.data_ptr() for parameter in reference._copy.parameters()]
    with reference.scoring() as model:
        assert [parameter.data_ptr() for parameter in model.parameters()] == before
    optimizer = build_adamw(policy, learning_rate=0.1, betas=(0.9, 0.95), weight_decay=0.0)
    keep_state_on_host(optimizer)
    moments = []
    for _ in range(2):
        for parameter in policy.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        moments.append([state["exp_avg"].data_ptr() for state in optimizer.state.values()])
    assert moments[0] == moments[1] and len(moments[0]) == len(list(policy.parameters()))


def test_with_adapters_there_is_nothing_to_put_away():
    policy = toy_policy(0)
    add_lora(policy, rank=2, alpha=4.0, targets=(), seed=0)
    with pytest.raises(ValueError, match="with lora there is no copy of the model to put away.*It is not needed"):
        reference_of(policy, offload=True)

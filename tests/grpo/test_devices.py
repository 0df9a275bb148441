"""The same on every device: what a GPU samples, scores and learns is what a CPU does, to the rounding of the type it computes in."""

from __future__ import annotations

import pytest
import torch

from tests.tiny_models import random_samples, tiny_llama
from tests.toy_run import curve, toy_policy, toy_settings, toy_trainer
from zero2r1.grpo.config import GrpoSettings
from zero2r1.grpo.reference import CopiedReference
from zero2r1.grpo.update import fix_logprobs, policy_update
from zero2r1.rollout.engine import Request, SamplingParams, generate
from zero2r1.rollout.torch_engine import TorchEngine
from zero2r1.training.config import ComputeSettings
from zero2r1.training.optimizer import build_adamw

ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]
GPU = pytest.param("cuda", marks=ON_GPU)
SAMPLES = random_samples([4, 4, 4], longest=40)


def one_update(device: str, compute: ComputeSettings) -> tuple[float, float]:
    """Loss and gradient norm of an update of one model with a reference, on a device."""
    policy = tiny_llama().to(device)
    reference = CopiedReference(tiny_llama(seed=1).to(device))
    grpo = GrpoSettings(beta=0.1, clip_low=0.2, clip_high=0.2)
    optimizer = build_adamw(policy, learning_rate=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    packs = fix_logprobs(SAMPLES, policy, reference, temperature=1.0, old="sampler", settings=compute)
    stats = policy_update(policy, [optimizer], packs, temperature=1.0, max_grad_norm=1.0, grpo=grpo, compute=compute)
    return stats.loss, stats.grad_norm


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.05)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradient_are_those_of_float32_on_a_cpu(device, dtype, tolerance, checkpointing):
    expected = one_update("cpu", ComputeSettings())
    found = one_update(device, ComputeSettings(dtype=dtype, gradient_checkpointing=checkpointing, tokens_per_micro_batch=200))
    assert found == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_the_sampler_of_a_device_gives_the_log_probabilities_of_its_trainer(device):
    model = tiny_llama().to(device)
    params = SamplingParams(max_new_tokens=30, stop_token_ids=(63,))
    requests = [Request(id=i, prompt_ids=(1 + i, 2, 3), seeds=(5, 6, 7), params=params) for i in range(4)]
    for request, group in zip(requests, generate(TorchEngine(model, str), requests), strict=True):
        for completion in group:
            ids = torch.tensor([request.prompt_ids + completion.token_ids], device=device)
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0].log_softmax(-1)
            chosen = torch.tensor(completion.token_ids, device=device)[:, None]
            exact = logits[len(request.prompt_ids) - 1 : -1].gather(-1, chosen)[:, 0]
            assert (exact.cpu() - torch.tensor(completion.logprobs)).abs().max() < 1e-5


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_toy_task_is_learnt_on_every_device(tmp_path, device, dtype):
    settings = toy_settings(steps=110, prompts=12, group_size=16)
    settings = settings.model_copy(update={"compute": settings.compute.model_copy(update={"dtype": dtype})})
    toy_trainer(tmp_path, settings, policy=toy_policy(0).to(device))[0].train()
    last = curve(tmp_path)[-5:]
    assert sum(row["rewards/accuracy/mean"] for row in last) / len(last) >= 0.9

"""One update of the student: what each token weighs, and that loss and gradient are those of the whole distributions side by side."""

from __future__ import annotations

import pytest
import torch

from tests.tiny_models import tiny_llama, tiny_qwen
from zero2r1.distill.update import completion_divergence, student_update, training_samples
from zero2r1.training.config import ComputeSettings
from zero2r1.training.packing import pack
from zero2r1.types import Completion, Segment

PROMPTS = [(1, 2, 3), (9, 8)]
ANSWERS = [[(4, 5, 0), (6, 0)], [(7, 7, 7, 7, 11), (0,)]]


def completion(ids: tuple[int, ...], forced: tuple[int, ...] = ()) -> Completion:
    opening = (Segment(token_ids=forced, logprobs=None),) if forced else ()
    sampled = Segment(token_ids=ids, logprobs=(-1.0,) * len(ids))
    return Completion(segments=(*opening, sampled), text="", finish_reason="stop", seed=0, policy_version=0)


GROUPS = [[completion(ids) for ids in group] for group in ANSWERS]


def plain_loss(student, teacher, temperature: float) -> torch.Tensor:
    """Every sequence by itself through the whole models; the mean over the 3 + 2 + 5 + 1 = 11 sampled tokens."""
    found = []
    for prompt, group in zip(PROMPTS, ANSWERS, strict=True):
        for ids in group:
            row = torch.tensor([[*prompt, *ids]])
            logits = [model(input_ids=row).logits[0, len(prompt) - 1 : -1, :64] / temperature for model in (student, teacher)]
            p, q = (values.double().log_softmax(-1) for values in logits)
            found.append((p.exp() * (p - q)).sum(-1))
    assert sum(map(len, found)) == 11
    return torch.cat(found).mean()


def test_every_sampled_token_weighs_the_same_and_a_forced_one_nothing():
    samples = training_samples(PROMPTS, [[completion((4, 0), forced=(5, 6, 7))], [completion((8, 9, 0))]])
    assert [sample.weights for sample in samples] == [(0.0, 0.0, 0.0, 0.2, 0.2), (0.2, 0.2, 0.2)]
    assert [sample.prompt_ids for sample in samples] == PROMPTS


@pytest.mark.parametrize("tokens_per_micro_batch", [8, 1024])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_loss_and_gradient_are_those_of_plain_autograd_however_they_are_packed(temperature, tokens_per_micro_batch):
    """The teacher is of another architecture, and its head is padded by 6 rows, which the student does not have."""
    student, teacher = tiny_llama(seed=1), tiny_qwen(seed=2, vocab=70)
    plain_loss(student, teacher, temperature).backward()
    wanted = {name: p.grad.clone() for name, p in student.named_parameters()}
    student.zero_grad()
    loss = plain_loss(student, teacher, temperature).item()
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    optimizer = torch.optim.SGD(student.parameters(), lr=1.0)
    compute = ComputeSettings(tokens_per_micro_batch=tokens_per_micro_batch)
    samples = training_samples(PROMPTS, GROUPS)
    stats = student_update(student, teacher, optimizer, samples, temperature=temperature, max_grad_norm=1e9, compute=compute)
    assert stats.applied and stats.reverse_kl == pytest.approx(loss, rel=1e-4) and loss > 0.5
    assert stats.grad_norm == pytest.approx(torch.stack([g.norm() for g in wanted.values()]).norm().item(), rel=1e-4)
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(before[name] - parameter.detach(), wanted[name], rtol=1e-3, atol=1e-5)


def test_the_gradient_is_clipped_by_its_norm():
    student = tiny_llama(seed=1)
    before = [p.detach().clone() for p in student.parameters()]
    optimizer = torch.optim.SGD(student.parameters(), lr=1.0)
    samples = training_samples(PROMPTS, GROUPS)
    stats = student_update(
        student, tiny_llama(seed=2), optimizer, samples, temperature=1.0, max_grad_norm=0.01, compute=ComputeSettings()
    )  # fmt: skip
    moved = torch.stack([(a - b.detach()).norm() for a, b in zip(before, student.parameters(), strict=True)]).norm().item()
    assert stats.grad_norm > 0.1 and moved == pytest.approx(0.01, rel=1e-3)


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    student, teacher = tiny_llama(seed=3), tiny_llama(seed=3)
    batch = pack(training_samples(PROMPTS, GROUPS), device=torch.device("cpu"))
    found = completion_divergence(student, teacher, batch, temperature=1.0, compute=ComputeSettings())
    assert found.shape == (11,) and found.abs().max() < 1e-6
    found.sum().backward()
    assert max(p.grad.abs().max().item() for p in student.parameters()) < 1e-5
    assert all(p.grad is None for p in teacher.parameters())


def test_half_precision_changes_rounding_only():
    student, teacher = tiny_llama(seed=1), tiny_llama(seed=2)
    batch = pack(training_samples(PROMPTS, GROUPS), device=torch.device("cpu"))
    full, half = (
        completion_divergence(student, teacher, batch, temperature=1.0, compute=ComputeSettings(dtype=dtype, float32_logits=exact))
        for dtype, exact in (("float32", True), ("bfloat16", False))
    )
    assert half.dtype == torch.float32 and not torch.equal(full, half)
    torch.testing.assert_close(full, half, rtol=0.1, atol=0.1)

"""The reverse KL: its direction, its value against enumeration, its gradient against plain autograd, and how much it holds at once.

Enumerated: three tokens, hidden states that are rows of the identity, so that the head's columns are the logits.
  student  logits ln(16, 1, 1)    p = (8/9, 1/18, 1/18)     at T = 2, where every logit is halved: (4, 1, 1)/6 = (2/3, 1/6, 1/6)
  teacher  logits ln( 4, 1, 1)    q = (2/3, 1/6, 1/6)       at T = 2:                              (2, 1, 1)/4 = (1/2, 1/4, 1/4)
  KL(p || q) = 8/9 ln(4/3) + 1/9 ln(1/3) = 0.255717 - 0.122068 = 0.133649
  KL(q || p) = 2/3 ln(3/4) + 1/3 ln 3    = 0.366204 - 0.191788 = 0.174416
  at T = 2:    2/3 ln(4/3) + 1/3 ln(2/3) = 0.191788 - 0.135155 = 0.056633      (times T² it would be 0.226532)
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from zero2r1.distill import divergence as module
from zero2r1.distill.divergence import reverse_kl

STUDENT, TEACHER = ([math.log(16), 0.0, 0.0], [math.log(4), 0.0, 0.0])


def of_logits(student: list[float], teacher: list[float], **options: object) -> Tensor:
    """The divergence [1] of two distributions given by their logits, and a student's head that takes gradients."""
    weight = torch.tensor([student], dtype=torch.float64).t().requires_grad_()
    other = torch.tensor([teacher], dtype=torch.float64).t()
    one = torch.ones(1, 1, dtype=torch.float64)
    return reverse_kl(one, weight, one, other, **options)


def test_the_student_stands_first():
    assert of_logits(STUDENT, TEACHER).item() == pytest.approx(0.133649, abs=1e-6)
    assert of_logits(TEACHER, STUDENT).item() == pytest.approx(0.174416, abs=1e-6)


def test_a_temperature_tempers_both_and_multiplies_nothing():
    assert of_logits(STUDENT, TEACHER, temperature=2.0).item() == pytest.approx(0.056633, abs=1e-6)
    assert of_logits(STUDENT, STUDENT, temperature=2.0).item() == pytest.approx(0.0, abs=1e-15)


def test_the_gradient_is_the_one_worked_out_by_hand():
    """p_0 (ln p_0/q_0 - KL) / T. At T = 1: 8/9 (0.287682 - 0.133649) = 0.136918; at T = 2: 2/3 (0.287682 - 0.056633) / 2 = 0.077016.

    With a hidden T² the second would be 0.308066.
    """
    for temperature, wanted in ((1.0, 0.136918), (2.0, 0.077016)):
        logits = torch.tensor([[v] for v in STUDENT], dtype=torch.float64, requires_grad=True)
        one, other = torch.ones(1, 1, dtype=torch.float64), torch.tensor([[v] for v in TEACHER], dtype=torch.float64)
        reverse_kl(one, logits, one, other, temperature=temperature).sum().backward()
        assert logits.grad is not None and logits.grad[0].item() == pytest.approx(wanted, abs=1e-6)
        assert logits.grad.sum().item() == pytest.approx(0.0, abs=1e-12)  # moving all logits alike changes nothing


def inputs(seed: int = 0, *, tokens: int = 11, vocabulary: int = 7, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Hidden states and heads of a student of width 5 and a teacher of width 6."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((tokens, 5), (vocabulary, 5), (tokens, 6), (vocabulary, 6))
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def plain(hidden: Tensor, weight: Tensor, teacher_hidden: Tensor, teacher_weight: Tensor, temperature: float) -> Tensor:
    """All tokens at once, by autograd."""
    p = torch.log_softmax(hidden @ weight.t() / temperature, -1)
    q = torch.log_softmax(teacher_hidden @ teacher_weight.t() / temperature, -1)
    return (p.exp() * (p - q)).sum(-1)


def gradients(function, given: list[Tensor], upstream: Tensor) -> list[Tensor]:
    hidden, weight = (tensor.clone().requires_grad_() for tensor in given[:2])
    (function(hidden, weight, *given[2:]) * upstream).sum().backward()
    return [hidden.grad, weight.grad]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000), chunk=st.integers(1, 12), temperature=st.sampled_from([0.5, 1.0, 1.7]), kept=st.sampled_from([0, 200, 10**6])
)
def test_value_and_gradient_are_those_of_plain_autograd_however_it_is_cut(seed, chunk, temperature, kept):
    """``kept`` bytes hold nothing, a chunk of 3 tokens (3 x 7 x 8 = 168 bytes), or everything."""
    given_ = inputs(seed)
    upstream = torch.linspace(-1.0, 2.0, 11, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "KEPT_BYTES", kept)
        found = gradients(lambda *t: reverse_kl(*t, temperature=temperature, chunk=chunk), given_, upstream)
    wanted = gradients(lambda *t: plain(*t, temperature), given_, upstream)
    torch.testing.assert_close(
        reverse_kl(*given_, temperature=temperature, chunk=chunk), plain(*given_, temperature), rtol=1e-10, atol=1e-12
    )
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_the_gradient_is_the_slope_of_the_value():
    hidden, weight, *teacher = inputs(3, tokens=4, vocabulary=3)
    arguments = (hidden.requires_grad_(), weight.requires_grad_())
    assert torch.autograd.gradcheck(lambda h, w: reverse_kl(h, w, *teacher, temperature=0.7, chunk=3), arguments)


def test_the_teacher_gets_no_gradient_even_where_it_asks_for_one():
    tensors = [tensor.requires_grad_() for tensor in inputs()]
    reverse_kl(*tensors).sum().backward()
    assert [tensor.grad is not None for tensor in tensors] == [True, True, False, False]


class Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operator returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, (list, tuple)) else [found]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return found


def test_no_tensor_holds_more_than_a_chunk_of_the_vocabulary_forward_or_backward():
    """64 tokens of 1,000 words, 4 at a time: 4,000 elements; heads have 5,000 and 6,000. All at once would be 64,000."""
    tensors = inputs(tokens=64, vocabulary=1_000, dtype=torch.float32)
    hidden, weight = (tensor.requires_grad_() for tensor in tensors[:2])
    with Largest() as largest:
        reverse_kl(*tensors, chunk=4).sum().backward()
    assert hidden.grad is not None and weight.grad is not None
    assert largest.elements == 6_000


def test_what_is_kept_for_the_way_back_is_bounded(monkeypatch):
    """10 tokens of 7 words in chunks of 2: 112 bytes of float64 each. 300 bytes hold two of the five, and nothing is kept for nobody."""
    monkeypatch.setattr(module, "KEPT_BYTES", 300)
    hidden, *rest = inputs(tokens=10)
    assert len(reverse_kl(hidden.clone().requires_grad_(), *rest, chunk=2).grad_fn.kept) == 2
    assert reverse_kl(hidden, *rest, chunk=2).grad_fn is None


def test_certain_models_give_finite_values():
    """Logits 200 apart: the teacher's probability of the student's token is e^-200, and the divergence is that 200."""
    student, teacher = [200.0, 0.0, 0.0], [0.0, 200.0, 0.0]
    assert of_logits(student, teacher).item() == pytest.approx(200.0)


def test_half_precision_is_compared_in_float32():
    """The heads multiply in bfloat16; what is exponentiated and summed is float32."""
    tensors = inputs(dtype=torch.float32)
    found = reverse_kl(*tensors, head_dtype=torch.bfloat16)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, plain(*tensors, 1.0), rtol=0.1, atol=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(reverse_kl(*tensors), found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature must be > 0"),
        ({"tokens": 10}, "11 and 10 tokens"),
        ({"vocabulary": 8}, "7 and 8 rows"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, message):
    temperature = change.pop("temperature", 1.0)
    with pytest.raises(ValueError, match=message):
        reverse_kl(*inputs()[:2], *inputs(**change)[2:], temperature=temperature)

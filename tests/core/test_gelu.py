import pytest
import torch
from torch.nn import functional as F

from core.gelu import Gelu
from core.model import gelu

# float32 of every size, on both sides of 0, and the bend in between step by step
SIZES = torch.logspace(-38, 4, 5_000)
VALUES = torch.cat([SIZES, -SIZES, torch.linspace(-12, 12, 200_001), torch.tensor([0.0, -0.0, 1e9, -1e9])])


def test_values_and_gradients_are_those_in_double_precision():
    x, exact = VALUES.clone().requires_grad_(), VALUES.double().requires_grad_()
    y, right = Gelu.apply(x), F.gelu(exact, approximate="tanh")
    torch.testing.assert_close(y.double(), right, atol=1e-9, rtol=1e-6)
    y.sum().backward()
    right.sum().backward()
    torch.testing.assert_close(x.grad.double(), exact.grad, atol=3e-7, rtol=0)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 17, 5), (2**17,)])
def test_any_shape_and_layout(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for view in (x, x.mT if x.dim() > 1 else x, x[..., ::2] if x.dim() else x):
        weights = torch.randn(view.shape)  # not alike, so that the places of gradients count
        found, right = (
            torch.autograd.grad((form(view) * weights).sum(), x)[0]
            for form in (Gelu.apply, lambda v: F.gelu(v, approximate="tanh"))
        )
        torch.testing.assert_close(found, right, atol=2e-6, rtol=1e-6)


def test_what_is_no_number_stays_none():
    x = torch.tensor([float("nan"), float("inf"), 1.0], requires_grad=True)
    y = Gelu.apply(x)
    y.sum().backward()
    assert y.isnan().tolist() == [True, False, False]
    assert y[1] == float("inf")
    assert not x.grad[0].isfinite()


def test_it_is_used_on_one_thread_of_a_cpu_in_float32(monkeypatch):
    calls = []
    monkeypatch.setattr("core.gelu.Gelu.apply", lambda x: calls.append(x) or x)
    x = torch.ones(4)
    gelu(x)
    assert len(calls) == 1
    gelu(x.bfloat16())
    gelu(x.to("meta"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    gelu(x)
    assert len(calls) == 1

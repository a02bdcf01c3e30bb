"""The private names of torch in ops/_torch.py do what the public ways beside them do."""

import contextlib
import subprocess
import sys

import pytest
import torch
from torch.autograd import forward_ad

from t2ilayers.ops import _torch


class Square(torch.autograd.Function):
    """Neither setup_context nor jvp, so it can be applied only where nothing transforms."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, dy):
        return 2 * ctx.saved_tensors[0] * dy


def refused(x):
    try:
        Square.apply(x)
    except RuntimeError:
        return True
    return False


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # torch's own, within torch.func
@pytest.mark.parametrize("transform", ["none", "grad", "vmap", "jvp", "dual", "nested"])
def test_transformed_is_where_a_plain_function_is_refused(transform):
    seen = []

    def f(x):
        seen.append((_torch.transformed(), refused(x)))
        return x.sum()

    x = torch.ones(3)
    if transform == "dual":
        with forward_ad.dual_level():
            f(forward_ad.make_dual(x, x))
    else:
        calls = {
            "none": f,
            "grad": torch.func.grad(f),
            "vmap": torch.func.vmap(f),
            "jvp": lambda x: torch.func.jvp(f, (x,), (x,)),
            "nested": torch.func.vmap(torch.func.grad(lambda x: f(x[None]))),
        }
        calls[transform](x)
    assert seen == [(transform != "none",) * 2]
    assert not _torch.transformed()


def test_below_autograd_records_as_little_as_no_grad():
    x = torch.ones(3, requires_grad=True)
    for context in (_torch.below_autograd(), torch.no_grad()):
        with context:
            assert (2 * x).grad_fn is None
    assert (2 * x).grad_fn is not None
    with contextlib.suppress(ZeroDivisionError), _torch.below_autograd():
        raise ZeroDivisionError
    assert (2 * x).grad_fn is not None


def test_direct_apply_is_apply():
    x = torch.arange(3.0, requires_grad=True)
    (public,) = torch.autograd.grad(Square.apply(x).sum(), x)
    (direct,) = torch.autograd.grad(_torch.direct_apply(Square)(x).sum(), x)
    assert public.tolist() == direct.tolist() == [0, 2, 4]


def test_a_constant_result_is_what_torch_marks_so():
    def f():
        return 1

    def g():
        return 1

    assert vars(_torch.constant_result(f)) == vars(torch.compiler.assume_constant_result(g))


def test_marking_does_not_load_the_compiler():
    code = "import sys, t2ilayers.ops; assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

"""The private names of torch in ops/_torch.py do what the public ways beside them do."""

import contextlib
import subprocess
import sys
import warnings

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


def test_transformed_is_where_jit_traces():
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit's own deprecation
        torch.jit.trace(lambda x: seen.append((_torch.transformed(), torch.jit.is_tracing())) or x, torch.ones(1))
    assert (True, True) in seen
    assert all(ours == public for ours, public in seen)
    assert not _torch.transformed()


class Wanted(torch.autograd.Function):
    """A product that notes which of its gradients are asked for."""

    @staticmethod
    def forward(ctx, x, y, seen):
        ctx.save_for_backward(x, y)
        ctx.seen = seen
        return x * y

    @staticmethod
    def backward(ctx, dz):
        x, y = ctx.saved_tensors
        ctx.seen.append([_torch.wanted(node) for node, _ in ctx.next_functions])
        return dz * y, dz * x, None


@pytest.mark.parametrize("create_graph", [False, True])
def test_wanted_gradients_are_those_that_the_pass_returns(create_graph):
    x, y = (torch.ones(1, requires_grad=True) for _ in range(2))
    z, seen = 2 * y, []
    for asked, right in (([x], [True, False]), ([z], [False, True]), ([y], [False, True]), ([x, y], [True, True])):
        torch.autograd.grad(Wanted.apply(x, z, seen), asked, create_graph=create_graph, retain_graph=True)
        assert seen.pop() == right
    Wanted.apply(x, y, seen).backward()
    assert seen.pop() == [True, True]
    Wanted.apply(x, y, seen).backward(inputs=[y])
    assert seen.pop() == [False, True]


def test_is_batched_where_gradients_are_many_at_once():
    x, seen = torch.ones(2, requires_grad=True), []
    y = x.clone()
    y.register_hook(lambda dy: seen.append(_torch.is_batched(dy)))
    torch.autograd.grad(y, x, torch.eye(2), is_grads_batched=True, retain_graph=True)
    torch.autograd.grad(y, x, torch.ones(2))
    assert seen == [True, False]

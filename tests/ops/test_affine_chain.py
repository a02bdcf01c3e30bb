"""Affines in a row against the float64 formula, finite differences, and their rules for bad input."""

import functools
import itertools
import warnings

import formula
import pytest
import torch

from t2ilayers.ops import affine_chain

IMPLS = {impl: functools.partial(affine_chain, impl=impl) for impl in ("reference", "auto")}
SLOPES = {"none": 1.0, "relu": 0.0, "leaky_relu": 0.3, "silu": 1.0}


@pytest.fixture(params=IMPLS, scope="module")
def chain(request):
    return IMPLS[request.param]


def inputs(n=2, c=6, h=3, w=5, *, pairs=2, dtype=torch.float64, seed=0):
    """x, then gammas, then betas."""
    random = torch.Generator().manual_seed(seed)
    shapes = [(n, c, h, w), *((n, c) for _ in range(2 * pairs))]
    return [torch.randn(s, generator=random, dtype=torch.float64).to(dtype) for s in shapes]


def flat(chain, **options):
    """The chain as a function of x, gammas and betas one after another."""

    def call(x, *parameters):
        half = len(parameters) // 2
        return chain(x, parameters[:half], parameters[half:], **options)

    return call


@pytest.mark.parametrize("dtype", formula.TOLERANCE, ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(2, 6, 3, 5), (3, 33, 8, 8), (1, 20, 1, 67)], ids=str)
def test_values_and_gradients_agree_with_the_formula(chain, shape, last, dtype):
    for activation, pairs, upsample in itertools.product(SLOPES, (1, 2, 3, 4), (1, 2)):
        form = torch.channels_last if last else torch.contiguous_format
        leaves = inputs(*shape, pairs=pairs, dtype=dtype)
        leaves[0] = leaves[0].contiguous(memory_format=form)
        leaves = [t.requires_grad_() for t in leaves]
        n, c, h, w = shape
        dy = torch.randn(n, c, upsample * h, upsample * w, generator=torch.Generator().manual_seed(1)).to(dtype)
        y = flat(chain, activation=activation, negative_slope=0.3, upsample=upsample)(*leaves)
        assert y.dtype == dtype
        assert y.is_contiguous(memory_format=form)
        results = [y, *torch.autograd.grad(y, leaves, dy)]
        options = dict(slope=SLOPES[activation], silu=activation == "silu", upsample=upsample)
        truth = formula.chain(dy, leaves[0], leaves[1 : 1 + pairs], leaves[1 + pairs :], **options)
        error = formula.worst(results, truth)
        assert error < formula.TOLERANCE[dtype], (activation, pairs, upsample, error)


@pytest.mark.parametrize("activation", SLOPES)
@pytest.mark.parametrize("upsample", [1, 2])
@pytest.mark.parametrize("pairs", [1, 2, 3])
def test_gradients_agree_with_finite_differences_to_second_order(chain, pairs, upsample, activation):
    tensors = [t.requires_grad_() for t in inputs(2, 3, 2, 2, pairs=pairs)]
    call = flat(chain, activation=activation, upsample=upsample)
    assert torch.autograd.gradcheck(call, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, tensors, fast_mode=True)


def test_samples_share_parameters_and_sequences_are_maps(chain):
    x, gamma, beta = inputs(2, 4, 1, 6, pairs=1)
    expected = chain(x, [gamma[:1].expand(2, 4)] * 2, [beta[:1].expand(2, 4)] * 2)
    for g, b in ((gamma[0], beta[0]), (gamma[:1], beta[0])):
        torch.testing.assert_close(chain(x[:, :, 0], [g, g], [b, b]), expected[:, :, 0])


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (2, 3, 4, 0)], ids=str)
@pytest.mark.parametrize("upsample", [1, 2])
def test_an_empty_map_gives_an_empty_map(chain, shape, upsample):
    n, c, h, w = shape
    leaves = [t.requires_grad_() for t in inputs(*shape)]
    y = flat(chain, upsample=upsample)(*leaves)
    assert y.shape == (n, c, upsample * h, upsample * w)
    for leaf, grad in zip(leaves, torch.autograd.grad(y.sum(), leaves), strict=True):
        assert grad.tolist() == torch.zeros_like(leaf).tolist()


def test_half_precision_is_rounded_once(chain):
    x, gamma, beta = inputs(pairs=1, dtype=torch.float32)
    half = chain(x.bfloat16(), [gamma] * 3, [beta] * 3)
    exact = chain(x.bfloat16().float(), [gamma] * 3, [beta] * 3)
    torch.testing.assert_close(half, exact.bfloat16(), rtol=0, atol=0)


def test_torch_compiles_forward_and_backward_whole_and_once(chain):
    torch._dynamo.reset()
    call = flat(chain, upsample=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dynamo's own deprecations
        compiled = torch.compile(call, backend="aot_eager", fullgraph=True, dynamic=True)
        torch._dynamo.utils.counters.clear()
        for n in (2, 3, 5):
            leaves = [t.requires_grad_() for t in inputs(n)]
            both = [(y := f(*leaves), *torch.autograd.grad(y.square().sum(), leaves)) for f in (compiled, call)]
            for a, b in zip(*both, strict=True):
                torch.testing.assert_close(a, b)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


BAD = {
    "gammas and betas must be equally many, at least one, got 0 and 0": dict(gammas=[], betas=[]),
    "gammas and betas must be equally many, at least one, got 2 and 1": dict(betas=[torch.ones(3)]),
    r"gammas\[1\] must be \(N, C\), \(C,\) or \(1, C\) with \(N, C\) = \(2, 3\)": dict(
        gammas=[torch.ones(3), torch.ones(4)]
    ),
    r"betas\[0\] must be on the device of x": dict(betas=[torch.ones(3, device="meta"), torch.ones(3)]),
    "activation must be": dict(activation="gelu"),
    "upsample must be 1 or 2": dict(upsample=3),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused_with_the_rule(message):
    arguments = dict(x=torch.ones(2, 3, 4, 4), gammas=[torch.ones(3)] * 2, betas=[torch.ones(3)] * 2)
    with pytest.raises(ValueError, match=message):
        affine_chain(**(arguments | BAD[message]))

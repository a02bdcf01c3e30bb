"""The op against a float64 formula written in NumPy, finite differences, and its rules for bad input."""

import functools
import itertools
import warnings

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from t2ilayers.ops import masked_affine_norm

TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def formula(x, gamma, beta, mask, *, eps, activation, slope, upsample, stats, groups):
    """The definition, in float64 and in the order of the paper: upsample, normalize, modulate, activate."""
    x = x.repeat(upsample, axis=2).repeat(upsample, axis=3)
    n, c, h, w = x.shape
    xhat = np.empty_like(x)
    if stats == "batch":
        members = [(slice(None), [ch]) for ch in range(c)]
    else:
        per_group = 1 if stats == "instance" else c // groups
        members = [(i, list(range(g, g + per_group))) for i in range(n) for g in range(0, c, per_group)]
    for i, channels in members:
        values = x[i][:, channels] if isinstance(i, slice) else x[i, channels]
        normal = (values - values.mean()) / np.sqrt(((values - values.mean()) ** 2).mean() + eps)
        if isinstance(i, slice):
            xhat[:, channels] = normal
        else:
            xhat[i, channels] = normal
    m = np.ones((n, 1, h, w)) if mask is None else mask
    z = (1 + gamma[:, :, None, None] * m) * xhat + beta[:, :, None, None] * m
    if activation == "none":
        return z
    return np.where(z > 0, z, 0 if activation == "relu" else slope * z)


def inputs(n=3, c=6, h=5, w=4, *, upsample=1, dtype=torch.float64, masked=True, seed=0):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(n, c, h, w, generator=random, dtype=torch.float64) * 2 + 3
    gamma, beta = (torch.randn(n, c, generator=random, dtype=torch.float64) for _ in range(2))
    mask = torch.rand(n, 1, h * upsample, w * upsample, generator=random, dtype=torch.float64)
    tensors = [x, gamma, beta, mask if masked else None]
    return [None if t is None else t.to(dtype) for t in tensors]


OPTIONS = list(
    itertools.product(("batch", "instance", "group"), (True, False), ("none", "relu", "leaky_relu"), (1, 2))
)


IMPLS = {impl: functools.partial(masked_affine_norm, impl=impl) for impl in ("reference", "native")}


@pytest.fixture(params=IMPLS, scope="module")
def norm(request):
    return IMPLS[request.param]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("stats", "masked", "activation", "upsample"), OPTIONS)
def test_every_option_agrees_with_the_formula(norm, stats, masked, activation, upsample, dtype):
    x, gamma, beta, mask = inputs(upsample=upsample, dtype=dtype, masked=masked)
    options = dict(upsample=upsample, stats=stats, groups=2 if stats == "group" else None, activation=activation)
    y = norm(x, gamma, beta, mask, eps=1e-3, negative_slope=0.3, **options)
    assert y.dtype == dtype
    truth = formula(
        *(None if t is None else t.double().numpy() for t in (x, gamma, beta, mask)),
        eps=1e-3,
        slope=0.3,
        **options,
    )
    scale = max(1.0, float(np.abs(truth).max()))
    np.testing.assert_allclose(y.double().numpy(), truth, rtol=0, atol=TOLERANCE[dtype] * scale)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 4),
    c=st.integers(1, 7),
    h=st.integers(1, 6),
    w=st.integers(2, 6),
    up=st.sampled_from([1, 2]),
)
def test_any_shape_agrees_with_the_formula(norm, n, c, h, w, up):
    x, gamma, beta, mask = inputs(n, c, h, w, upsample=up)
    y = norm(x, gamma, beta, mask, upsample=up, activation="relu")
    truth = formula(
        *(t.numpy() for t in (x, gamma, beta, mask)),
        eps=1e-5, activation="relu", slope=0, upsample=up, stats="batch", groups=None,
    )  # fmt: skip
    np.testing.assert_allclose(y.numpy(), truth, atol=1e-9)


@pytest.mark.parametrize("upsample", [1, 2])
def test_large_mean_does_not_cost_precision(norm, upsample):
    x, gamma, beta, mask = inputs(8, 4, 16, 16, upsample=upsample)
    x = x + 2e4  # mean/std = 1e4
    y = norm(x.float(), gamma.float(), beta.float(), mask.float(), upsample=upsample)
    truth = norm(x.float().double(), gamma, beta, mask, upsample=upsample)
    assert (y - truth).abs().max() < 1e-3 * truth.abs().max()


@pytest.mark.parametrize(("stats", "masked", "activation", "upsample"), OPTIONS)
def test_gradients_agree_with_finite_differences_to_second_order(norm, stats, masked, activation, upsample):
    tensors = [t for t in inputs(2, 4, 3, 2, upsample=upsample, masked=masked) if t is not None]
    tensors = [t.requires_grad_() for t in tensors]

    def op(x, gamma, beta, mask=None):
        groups = 2 if stats == "group" else None
        return norm(x, gamma, beta, mask, stats=stats, groups=groups, activation=activation, upsample=upsample)

    assert torch.autograd.gradcheck(op, tensors)
    assert torch.autograd.gradgradcheck(op, tensors)


@pytest.mark.parametrize("upsample", [1, 2])
def test_gradients_in_evaluation_mode_agree_with_finite_differences(norm, upsample):
    tensors = [t.requires_grad_() for t in inputs(2, 4, 3, 2, upsample=upsample)]
    running = {"running_mean": torch.randn(4).double(), "running_var": torch.rand(4).double() + 0.5}

    def op(*tensors):
        return norm(*tensors, training=False, upsample=upsample, activation="leaky_relu", **running)

    assert torch.autograd.gradcheck(op, tensors)
    assert torch.autograd.gradgradcheck(op, tensors)


@pytest.mark.parametrize("upsample", [1, 2])
def test_running_statistics_are_those_of_batch_norm_on_the_upsampled_map(norm, upsample):
    x, gamma, beta, mask = inputs(upsample=upsample)
    ours = [torch.full((6,), 0.3).double(), torch.full((6,), 1.7).double()]
    theirs = [t.clone() for t in ours]
    options = dict(upsample=upsample, momentum=0.25)
    norm(x, gamma, beta, mask, running_mean=ours[0], running_var=ours[1], **options)
    big = F.interpolate(x, scale_factor=upsample)
    F.batch_norm(big, theirs[0], theirs[1], training=True, momentum=0.25)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)

    y = norm(x, gamma, beta, mask, running_mean=ours[0], running_var=ours[1], training=False, upsample=upsample)
    xhat = F.batch_norm(big, theirs[0], theirs[1])
    torch.testing.assert_close(y, (1 + gamma[..., None, None] * mask) * xhat + beta[..., None, None] * mask)
    torch.testing.assert_close(ours[0], theirs[0])  # evaluation leaves them alone


def test_layout_of_the_input_does_not_change_the_values_and_is_kept(norm):
    x, gamma, beta, mask = inputs(2, 8, 6, 6, upsample=2, dtype=torch.float32)
    y = norm(x, gamma, beta, mask, upsample=2, activation="relu")
    last = norm(x.to(memory_format=torch.channels_last), gamma, beta, mask, upsample=2, activation="relu")
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, last)
    strided = norm(x.mT.contiguous().mT, gamma, beta, mask, upsample=2, activation="relu")
    torch.testing.assert_close(y, strided)


def test_half_precision_features_take_float32_parameters_and_statistics(norm):
    x, gamma, beta, mask = inputs(dtype=torch.float32)
    half = norm(x.bfloat16(), gamma, beta, mask)
    exact = norm(x.bfloat16().float(), gamma, beta, mask)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half, exact.bfloat16(), rtol=0, atol=0)


def test_an_empty_batch_gives_an_empty_result_and_leaves_running_statistics_alone(norm):
    mean, var = torch.zeros(3), torch.ones(3)
    x = torch.empty(0, 3, 4, 4, requires_grad=True)
    empty = torch.empty(0, 3)
    y = norm(x, empty, empty, torch.empty(0, 1, 8, 8), upsample=2, running_mean=mean, running_var=var)
    y.sum().backward()
    assert y.shape == (0, 3, 8, 8)
    assert x.grad.shape == x.shape
    assert mean.tolist() == [0, 0, 0]
    assert var.tolist() == [1, 1, 1]


def test_compiles_whole_without_recompiling_over_batch_sizes(norm):
    torch._dynamo.reset()
    graphs = []

    def count(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(norm, backend=count, fullgraph=True, dynamic=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dynamo's own deprecations
        for n in (2, 3, 5):
            x, gamma, beta, mask = inputs(n, upsample=2, dtype=torch.float32)
            torch.testing.assert_close(
                compiled(x, gamma, beta, mask, upsample=2),
                norm(x, gamma, beta, mask, upsample=2),
            )
    assert len(graphs) == 1


BAD = {
    r"x must be \(N, C, H, W\), .*, got shape \(3, 6\)": dict(x=torch.ones(3, 6)),
    r"gamma must be .* = \(3, 6\)": dict(gamma=torch.ones(2, 6)),
    r"beta must be .* = \(3, 6\)": dict(beta=torch.ones(3, 6, 1)),
    r"mask must be \(N, 1, s\*H, s\*W\) = \(3, 1, 10, 8\)": dict(upsample=2),
    "upsample must be 1 or 2": dict(upsample=4),
    'stats must be "batch"': dict(stats="layer"),
    "groups goes with": dict(groups=2),
    "groups must divide": dict(stats="group", groups=4),
    "got only one": dict(running_mean=torch.zeros(6)),
    r"running_var must be \(C,\)": dict(running_mean=torch.zeros(6), running_var=torch.zeros(5)),
    'running statistics go with stats="batch"': dict(
        stats="instance", running_mean=torch.zeros(6), running_var=torch.zeros(6)
    ),
    "training=False normalizes by running": dict(training=False),
    "activation must be": dict(activation="gelu"),
    "impl must be": dict(impl="cuda"),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused_with_the_rule(message):
    x, gamma, beta, mask = inputs(dtype=torch.float32)
    arguments = dict(x=x, gamma=gamma, beta=beta, mask=mask) | BAD[message]
    with pytest.raises(ValueError, match=message):
        masked_affine_norm(**arguments)


def test_integers_single_values_and_missing_kernels_are_refused():
    x, gamma, beta, _ = inputs(1, 3, 1, 1)
    with pytest.raises(TypeError, match=r"x must be floating point, got torch\.int64"):
        masked_affine_norm(x.long(), gamma, beta)
    for stats in ("batch", "instance"):
        with pytest.raises(ValueError, match="more than one value"):
            masked_affine_norm(x, gamma, beta, stats=stats)
    with pytest.raises(RuntimeError, match=r'impl="native" was asked for, but .*\'meta\''):
        masked_affine_norm(*(t.to("meta") for t in inputs()), impl="native")


SHARDS = ((0, 3), (3, 3), (3, 5))  # unequal, and one empty


def _rank(rank, impl, file, results):
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=len(SHARDS))
    tensors = [t[slice(*SHARDS[rank])].clone().requires_grad_() for t in inputs(5, upsample=2)]
    running = [torch.zeros(6).double(), torch.ones(6).double()]
    y = masked_affine_norm(
        *tensors, upsample=2, activation="relu", process_group=dist.group.WORLD, impl=impl,
        running_mean=running[0], running_var=running[1],
    )  # fmt: skip
    first = torch.autograd.grad(y.square().sum(), tensors, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), tensors)
    torch.save([y.detach(), *(g.detach() for g in (*first, *second)), *running], f"{results}/{rank}")
    dist.destroy_process_group()


@pytest.mark.parametrize("impl", IMPLS)
def test_synchronized_statistics_equal_one_process_with_unequal_and_empty_shards(impl, tmp_path):
    mp.spawn(_rank, (impl, tmp_path / "rendezvous", tmp_path), nprocs=len(SHARDS))
    ranks = [torch.load(tmp_path / str(rank)) for rank in range(len(SHARDS))]

    tensors = [t.requires_grad_() for t in inputs(5, upsample=2)]
    running = [torch.zeros(6).double(), torch.ones(6).double()]
    y = masked_affine_norm(
        *tensors, upsample=2, activation="relu", running_mean=running[0], running_var=running[1]
    )
    first = torch.autograd.grad(y.square().sum(), tensors, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), tensors)
    for index, truth in enumerate((y, *first, *second)):
        torch.testing.assert_close(torch.cat([rank[index] for rank in ranks]), truth.detach())
    for rank in ranks:
        torch.testing.assert_close(rank[-2:], running)

"""The op against a float64 formula written in NumPy, finite differences, and its rules for bad input."""

import functools
import itertools
import math
import warnings

import formula
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from t2ilayers.ops import masked_affine_norm

from ranks import run_together

IMPLS = {impl: functools.partial(masked_affine_norm, impl=impl) for impl in ("reference", "native")}


@pytest.fixture(params=IMPLS, scope="module")
def norm(request):
    return IMPLS[request.param]


def inputs(n=3, c=6, h=5, w=4, *, upsample=1, dtype=torch.float64, mask="float", kind="vectors", seed=0):
    """x, gamma, beta and mask of each kind that there is."""
    random = torch.Generator().manual_seed(seed)
    large = (h * upsample, w * upsample)
    shape = {"vectors": (n, c), "shared": (c,), "row": (1, c), "maps": (n, c, *large)}[kind]
    x = torch.randn(n, c, h, w, generator=random, dtype=torch.float64) * 2 + 3
    gamma, beta = (torch.randn(shape, generator=random, dtype=torch.float64) for _ in range(2))
    m = torch.rand(1 if mask == "shared" else n, 1, *large, generator=random, dtype=torch.float64)
    m = None if mask == "none" else m > 0.5 if mask == "bool" else m.to(dtype)
    return [x.to(dtype), gamma.to(dtype), beta.to(dtype), m]


ACTIVATIONS = {"none": 1.0, "relu": 0.0, "leaky_relu": 0.3, "silu": 1.0}  # and their slopes
STATS = {"batch": 0, "instance": 6, "group": 2, "none": -1, "given": 0}  # and their groups, of 6 channels
MASKS = ("float", "shared", "bool", "none")
KINDS = ("vectors", "shared", "row", "maps")


def settings_of(stats, activation, scale, upsample):
    """Keywords of the op, and those of the formula."""
    given = (torch.linspace(-1, 4, 6).double(), torch.linspace(0.5, 3, 6).double())
    keywords = dict(activation=activation, negative_slope=0.3, scale=scale, upsample=upsample, eps=1e-3)
    if stats == "given":
        keywords |= dict(training=False, running_mean=given[0].float(), running_var=given[1])
    else:
        keywords |= dict(stats=stats, groups=2 if stats == "group" else None)
    options = dict(
        groups=STATS[stats], eps=1e-3, slope=ACTIVATIONS[activation], silu=activation == "silu",
        absolute=scale == "absolute", upsample=upsample,
        given=(given[0].float(), given[1]) if stats == "given" else None,
    )  # fmt: skip
    return keywords, options


def first_order(norm, tensors, dy, **keywords):
    """y and the gradients of <dy, y>, None of what has none."""
    leaves = [t.detach().requires_grad_() if t is not None and t.is_floating_point() else t for t in tensors]
    y = norm(*leaves, **keywords)
    wanted = [t for t in leaves if t is not None and t.requires_grad]
    grads = iter(torch.autograd.grad(y, wanted, dy))
    return [y.detach(), *(next(grads) if t is not None and t.requires_grad else None for t in leaves)]


@pytest.mark.parametrize("dtype", formula.TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stats", STATS)
def test_values_and_gradients_of_all_options_crossed_agree_with_the_formula(norm, stats, kind, dtype):
    crossed = itertools.product(ACTIVATIONS, ("residual", "absolute"), (1, 2), MASKS)
    for activation, scale, upsample, mask in crossed:
        tensors = inputs(upsample=upsample, dtype=dtype, mask=mask, kind=kind)
        keywords, options = settings_of(stats, activation, scale, upsample)
        dy = torch.randn(3, 6, 5 * upsample, 4 * upsample, generator=torch.Generator().manual_seed(1)).to(dtype)
        truth = list(formula.norm(dy, *tensors, **options))
        if mask == "bool":
            truth[-1] = None
        results = first_order(norm, tensors, dy, **keywords)
        assert [None if r is None else (r.dtype, r.shape) for r in results[1:]] == [
            None if t is None or t.dtype == torch.bool else (t.dtype, t.shape) for t in tensors
        ]
        assert results[0].dtype == dtype
        error = formula.worst(results, truth)
        assert error < formula.TOLERANCE[dtype], (activation, scale, upsample, mask, error)


@pytest.mark.parametrize("kind", ["vectors", "shared", "maps"])
@pytest.mark.parametrize("stats", STATS)
def test_second_derivatives_of_all_options_crossed_agree_with_the_reference(stats, kind):
    crossed = itertools.product(ACTIVATIONS, ("residual", "absolute"), (1, 2), MASKS)
    for activation, scale, upsample, mask in crossed:
        keywords, _ = settings_of(stats, activation, scale, upsample)
        results = []
        for norm in IMPLS.values():
            tensors = inputs(2, 6, 3, 2, upsample=upsample, mask=mask, kind=kind)
            leaves = [t.requires_grad_() for t in tensors if t is not None and t.is_floating_point()]
            first = torch.autograd.grad(norm(*tensors, **keywords).pow(3).sum(), leaves, create_graph=True)
            results.append(torch.autograd.grad(sum(g.square().sum() for g in first), leaves))
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * float(theirs.abs().max()))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("upsample", [1, 2])
@pytest.mark.parametrize("stats", STATS)
def test_gradients_agree_with_finite_differences_to_second_order(norm, stats, upsample, activation):
    for i, (scale, mask, kind) in enumerate(
        (("residual", "float", "vectors"), ("absolute", "shared", "shared"), ("absolute", "none", "maps"))
    ):
        keywords, _ = settings_of(stats, activation, scale, upsample)
        tensors = [t for t in inputs(2, 6, 3, 2, upsample=upsample, mask=mask, kind=kind, seed=i) if t is not None]
        tensors = [t.requires_grad_() for t in tensors]

        def op(*tensors, keywords=keywords):
            return norm(*tensors, **keywords)

        assert torch.autograd.gradcheck(op, tensors, fast_mode=True)
        assert torch.autograd.gradgradcheck(op, tensors, fast_mode=True)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 4), c=st.integers(1, 7), h=st.integers(1, 6), w=st.integers(2, 6),
    up=st.sampled_from([1, 2]), mask=st.sampled_from(MASKS), kind=st.sampled_from(KINDS),
)  # fmt: skip
def test_any_shape_agrees_with_the_formula(norm, n, c, h, w, up, mask, kind):
    tensors = inputs(n, c, h, w, upsample=up, mask=mask, kind=kind)
    y = norm(*tensors, upsample=up, activation="relu")
    truth = formula.norm(np.zeros(1), *tensors, upsample=up, slope=0)[0]
    np.testing.assert_allclose(y.numpy(), truth, atol=1e-9)


@pytest.mark.parametrize("shape", [(3, 6, 7), (3, 6, 2, 3, 4)], ids=["sequence", "volume"])
@pytest.mark.parametrize("stats", STATS)
def test_sequences_and_volumes_are_maps_of_other_shape(norm, stats, shape):
    keywords, options = settings_of(stats, "silu", "absolute", 1)
    length = math.prod(shape[2:])
    x, gamma, beta, mask = inputs(3, 6, 1, length)
    maps = inputs(3, 6, 1, length, kind="maps")[1:3]
    for parameters in ((gamma, beta), maps):
        tensors = [t.reshape(3, t.shape[1], *shape[2:]) if t.dim() == 4 else t for t in (x, *parameters, mask)]
        y = norm(*tensors, **keywords)
        assert y.shape == shape
        truth = formula.norm(np.zeros(1), x, *parameters, mask, **options)[0]
        np.testing.assert_allclose(y.numpy(), truth.reshape(shape), atol=1e-12)


def test_memory_in_which_channels_lie_last_is_kept_for_every_number_of_dimensions(norm):
    gamma = torch.randn(2, 8)
    sequence = torch.randn(2, 5, 8).mT
    assert norm(sequence, gamma, gamma).stride() == sequence.stride()
    volume = torch.randn(2, 8, 3, 4, 5).contiguous(memory_format=torch.channels_last_3d)
    assert norm(volume, gamma, gamma).is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("upsample", [1, 2])
def test_large_mean_does_not_cost_precision(norm, upsample):
    x, gamma, beta, mask = inputs(8, 4, 16, 16, upsample=upsample)
    x = x + 2e4  # mean/std = 1e4
    y = norm(x.float(), gamma.float(), beta.float(), mask.float(), upsample=upsample)
    truth = norm(x.float().double(), gamma, beta, mask, upsample=upsample)
    assert (y - truth).abs().max() < 1e-3 * truth.abs().max()


def test_an_absolute_gamma_keeps_its_digits_where_the_mask_is_one(norm):
    x = inputs()[0].bfloat16()
    gamma, zero = torch.full((6,), 0.01).bfloat16(), torch.zeros(6)
    plain = norm(x.float(), zero, zero)
    expected = (gamma.float()[:, None, None] * plain).bfloat16()
    for mask in (None, torch.ones(3, 1, 5, 4), torch.ones(1, 1, 5, 4, dtype=torch.bool)):
        torch.testing.assert_close(norm(x, gamma, zero, mask, scale="absolute"), expected, rtol=2**-8, atol=0)


@pytest.mark.parametrize("count", ["output", "input"])
@pytest.mark.parametrize("dtype", formula.TOLERANCE, ids=str)  # of the running statistics
@pytest.mark.parametrize("upsample", [1, 2])
def test_running_statistics_are_those_of_batch_norm_on_the_map_that_counts(norm, upsample, dtype, count):
    x, gamma, beta, mask = inputs(upsample=upsample)
    ours = [torch.full((6,), 0.3, dtype=dtype), torch.full((6,), 1.7, dtype=dtype)]
    theirs = [t.double() for t in ours]
    running = dict(zip(("running_mean", "running_var"), ours, strict=True))
    norm(x, gamma, beta, mask, **running, upsample=upsample, momentum=0.25, running_count=count)
    big = F.interpolate(x, scale_factor=upsample)
    F.batch_norm(big if count == "output" else x, *theirs, training=True, momentum=0.25)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b.to(dtype), rtol=formula.TOLERANCE[dtype], atol=0)

    before = [t.clone() for t in ours]
    y = norm(x, gamma, beta, mask, **running, training=False, upsample=upsample)
    xhat = F.batch_norm(big, *(t.double() for t in ours))
    torch.testing.assert_close(y, (1 + gamma[..., None, None] * mask) * xhat + beta[..., None, None] * mask)
    assert all(torch.equal(a, b) for a, b in zip(ours, before, strict=True))  # evaluation leaves them alone


def test_running_statistics_change_in_place_where_autograd_sees_it(norm):
    x, gamma, beta, _ = inputs()
    mean, var = torch.zeros(6), torch.ones(6)
    (mean * gamma.float().requires_grad_()).sum()  # saves mean
    versions = mean._version, var._version
    norm(x, gamma, beta, running_mean=mean, running_var=var)
    assert (mean._version, var._version) > versions


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


EMPTY = [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (2, 3, 4, 0), (0, 3, 1, 1)]


@pytest.mark.parametrize("shape", EMPTY, ids=str)
@pytest.mark.parametrize("stats", ["batch", "instance", "none", "given"])
@pytest.mark.parametrize("upsample", [1, 2])
def test_an_empty_map_gives_an_empty_map_and_leaves_running_statistics_alone(norm, shape, stats, upsample):
    n, c, h, w = shape
    mean, var = torch.zeros(c), torch.ones(c)
    running = dict(running_mean=mean, running_var=var) if stats in ("batch", "given") else {}
    options = dict(stats=stats) if stats != "given" else dict(training=False)
    x, mask = torch.empty(shape, requires_grad=True), torch.ones(n, 1, upsample * h, upsample * w)
    gamma, beta = torch.ones(n, c, requires_grad=True), torch.ones(c, requires_grad=True)
    y = norm(x, gamma, beta, mask.requires_grad_(), upsample=upsample, **running, **options)
    y.sum().backward()
    assert y.shape == (n, c, upsample * h, upsample * w)
    assert x.grad.shape == x.shape
    for t in (gamma, beta, mask):
        assert t.grad.tolist() == torch.zeros_like(t).tolist()
    assert (mean.tolist(), var.tolist()) == ([0] * c, [1] * c)


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("stats", ["none", "given"])
@pytest.mark.parametrize("dtype", formula.TOLERANCE, ids=str)
def test_infinity_nan_and_overflow_go_where_torch_lets_them(norm, dtype, stats, activation):
    largest = torch.finfo(dtype).max
    x = torch.tensor([INF, -INF, NAN, largest, -largest, 0.0, -0.0, 1.0], dtype=dtype).reshape(1, 2, 2, 2)
    gamma, beta = torch.tensor([[0.5, 3.0]]).to(dtype), torch.tensor([[0.25, -1.0]]).to(dtype)
    keywords = dict(activation=activation, scale="absolute")
    inner = torch.promote_types(dtype, torch.float32)
    mean, var = torch.zeros(2, dtype=inner), torch.full((2,), 1 - 1e-5, dtype=inner)
    keywords |= dict(stats="none") if stats == "none" else dict(training=False, running_mean=mean, running_var=var)
    dy = torch.full_like(x, 2)

    leaves = [t.to(inner).requires_grad_() for t in (x, gamma, beta)]
    xhat = leaves[0] if stats == "none" else F.batch_norm(leaves[0], mean, var)
    plain = xhat * leaves[1][..., None, None] + leaves[2][..., None, None]
    act = {"none": lambda z: z, "relu": F.relu, "leaky_relu": lambda z: F.leaky_relu(z, 0.3), "silu": F.silu}
    y = act[activation](plain).to(dtype)
    expected = [y, *torch.autograd.grad(y, leaves, dy)]
    results = first_order(norm, [x, gamma, beta], dy, negative_slope=0.3, **keywords)
    for ours, theirs in zip(results[:4], expected, strict=True):
        tolerance = 4 * formula.TOLERANCE[dtype]
        torch.testing.assert_close(ours, theirs.detach().to(dtype), equal_nan=True, rtol=tolerance, atol=tolerance)


def test_a_channel_without_variance_is_its_shift(norm):
    x = torch.full((2, 3, 4, 4), 7.0)
    y = norm(x, torch.full((3,), 5.0), torch.tensor([1.0, -2.0, 0.0]), activation="leaky_relu")
    expected = torch.tensor([1.0, -0.4, 0.0])[:, None, None].expand(2, 3, 4, 4)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-3)  # 1/std is 316, which the mean's rounding feels


@pytest.mark.parametrize(("impl", "value"), [*(("reference", v) for v in (INF, -INF, NAN)), ("native", NAN)])
def test_running_statistics_of_a_batch_that_overflowed_are_those_of_torch(impl, value):
    norm = IMPLS[impl]
    x = inputs(dtype=torch.float32)[0]
    x[0, 0, 0, 0] = value
    ours, theirs = ([torch.zeros(6), torch.ones(6)] for _ in range(2))
    norm(x, torch.zeros(6), torch.zeros(6), running_mean=ours[0], running_var=ours[1])
    F.batch_norm(x, *theirs, training=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


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
    r"x must be \(N, C, H, W\), got shape \(3, 6, 5\)": dict(x=torch.ones(3, 6, 5), upsample=2),
    r"gamma must be .*\(N, C\) = \(3, 6\)": dict(gamma=torch.ones(2, 6)),
    r"beta must be .*\(N, C\) = \(3, 6\)": dict(beta=torch.ones(3, 6, 1)),
    "gamma and beta must both be maps or both vectors": dict(gamma=torch.ones(3, 6, 5, 4)),
    r"mask must be \(N, 1, s\*H, s\*W\) = \(3, 1, 10, 8\)": dict(upsample=2),
    "gamma must be on the device of x, cpu, got meta": dict(gamma=torch.ones(3, 6, device="meta")),
    "beta must be on the device of x, cpu, got meta": dict(beta=torch.ones(6, device="meta")),
    "mask must be on the device of x, cpu, got meta": dict(mask=torch.ones(3, 1, 5, 4, device="meta")),
    "running_var must be on the device of x, cpu, got meta": dict(
        running_mean=torch.zeros(6), running_var=torch.ones(6, device="meta")
    ),
    "upsample must be 1 or 2": dict(upsample=4),
    'stats must be "batch", "instance", "group" or "none"': dict(stats="layer"),
    "groups goes with": dict(groups=2),
    "groups must divide": dict(stats="group", groups=4),
    "got only one": dict(running_mean=torch.zeros(6)),
    r"running_var must be \(C,\)": dict(running_mean=torch.zeros(6), running_var=torch.zeros(5)),
    'running statistics go with stats="batch"': dict(
        stats="none", running_mean=torch.zeros(6), running_var=torch.zeros(6)
    ),
    "training=False normalises by running": dict(training=False),
    r"momentum must be in \[0, 1\], got 2": dict(momentum=2),
    r"momentum must be in \[0, 1\], got nan": dict(momentum=NAN),
    "eps must be > 0, got 0": dict(eps=0),
    "activation must be": dict(activation="gelu"),
    'scale must be "residual" or "absolute"': dict(scale="relative"),
    'running_count must be "output" or "input"': dict(running_count="both"),
    "impl must be": dict(impl="cuda"),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused_with_the_rule(message):
    x, gamma, beta, mask = inputs(dtype=torch.float32)
    arguments = dict(x=x, gamma=gamma, beta=beta, mask=mask) | BAD[message]
    with pytest.raises(ValueError, match=message):
        masked_affine_norm(**arguments)


def test_integers_none_single_values_and_missing_kernels_are_refused():
    x, gamma, beta, _ = inputs(1, 3, 1, 1)
    with pytest.raises(TypeError, match=r"x must be floating point, got torch\.int64"):
        masked_affine_norm(x.long(), gamma, beta)
    with pytest.raises(TypeError, match="gamma must be a tensor, got NoneType"):
        masked_affine_norm(x, None, beta)
    for stats in ("batch", "instance"):
        with pytest.raises(ValueError, match="more than one value"):
            masked_affine_norm(x, gamma, beta, stats=stats)
    with pytest.raises(RuntimeError, match=r'impl="native" was asked for, but .*\'meta\''):
        masked_affine_norm(*(t.to("meta") for t in inputs()), impl="native")


SHARDS = ((0, 3), (3, 3), (3, 5))  # unequal, and one empty


def _rank(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=len(SHARDS))
    torch.save({impl: _share(rank, impl) for impl in IMPLS}, f"{folder}/{rank}")
    dist.destroy_process_group()


def _share(rank, impl):
    tensors = [t[slice(*SHARDS[rank])].clone().requires_grad_() for t in inputs(5, upsample=2)]
    running = [torch.zeros(6).double(), torch.ones(6).double()]
    y = masked_affine_norm(
        *tensors, upsample=2, activation="relu", process_group=dist.group.WORLD, impl=impl,
        running_mean=running[0], running_var=running[1],
    )  # fmt: skip
    first = torch.autograd.grad(y.square().sum(), tensors, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), tensors)
    return [y.detach(), *(g.detach() for g in (*first, *second)), *running]


@pytest.fixture(scope="module")
def shares(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    run_together(_rank, folder, count=len(SHARDS))
    return [torch.load(folder / str(rank)) for rank in range(len(SHARDS))]


@pytest.mark.parametrize("impl", IMPLS)
def test_synchronized_statistics_equal_one_process_with_unequal_and_empty_shards(impl, shares):
    ranks = [share[impl] for share in shares]
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

"""What the native op promises beyond the reference's arithmetic: precision, memory, repeatability, tools."""

import itertools
import warnings

import formula
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2ilayers.ops import _choice, masked_affine_norm

assert _choice.why_not("cpu", torch.float32) is None, _choice.why_not("cpu", torch.float32)
OPS = torch.ops.t2ilayers
FORWARD = OPS.masked_affine_norm_forward.default
OPTIONS = 0, 1e-5, 0.2, False, False, 1  # groups, eps, slope, silu, absolute, upsample


def problem(n, c, h, w, *, upsample=1, dtype=torch.float64, last=False, mean=1.0, seed=0):
    random = torch.Generator().manual_seed(seed)
    form = torch.channels_last if last else torch.contiguous_format

    def draw(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    features = (draw(n, c, h, w) + mean, draw(n, c, upsample * h, upsample * w))
    x, dy = (t.to(dtype).contiguous(memory_format=form) for t in features)
    parameters = torch.promote_types(dtype, torch.float32)
    gamma, beta, mask = draw(n, c), draw(n, c), draw(n, 1, upsample * h, upsample * w).sigmoid()
    return dy, x, *(t.to(parameters) for t in (gamma, beta, mask))


def run(dy, x, gamma, beta, mask, *, groups, slope, upsample):
    inputs = [t.detach().requires_grad_() for t in (x, gamma, beta, mask)]
    stats = {"stats": "group", "groups": groups} if groups else {}
    y = masked_affine_norm(
        *inputs, **stats, activation="leaky_relu", negative_slope=slope, upsample=upsample, impl="native"
    )
    return y.detach(), *torch.autograd.grad(y, inputs, dy)


# A vector and a tail; odd; one pixel more than a block; more channels than a block; a single row or column.
SHAPES = [(2, 5, 3, 7), (3, 16, 8, 8), (2, 19, 1, 33), (1, 64, 33, 65), (4, 33, 9, 1), (2, 3, 64, 64)]


@pytest.mark.parametrize("dtype", formula.TOLERANCE, ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_agree_with_float64(shape, last, dtype):
    for upsample, whole, slope in itertools.product((1, 2), ("batch", "instance", "group"), (0.0, 0.2, 1.0)):
        groups = {"batch": 0, "instance": shape[1], "group": 1}[whole]
        tensors = problem(*shape, upsample=upsample, dtype=dtype, last=last)
        options = dict(groups=groups, slope=slope, upsample=upsample)
        results = run(*tensors, **options)
        assert results[0].dtype == results[1].dtype == dtype
        assert formula.worst(results, formula.norm(*tensors, **options)) < formula.TOLERANCE[dtype], (
            upsample,
            whole,
            slope,
        )


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "silu"])
@pytest.mark.parametrize("stats", ["batch", "instance", "none", "running"])
@pytest.mark.parametrize("shape", [(3, 16, 4, 4), (2, 37, 3, 5), (5, 20, 8, 8)], ids=str)
def test_small_maps_take_every_option(shape, stats, activation):
    """Many channels of few pixels have kernels of their own."""
    for upsample, absolute, masked in itertools.product((1, 2), (False, True), (False, True)):
        dy, *inputs = problem(*shape, upsample=upsample, dtype=torch.float32)
        inputs = [t.requires_grad_() for t in inputs[: 4 if masked else 3]]
        running = [torch.linspace(-1, 1, shape[1]), torch.linspace(0.5, 2, shape[1])]
        given = dict(zip(("running_mean", "running_var"), running, strict=True)) if stats == "running" else {}
        y = masked_affine_norm(
            *inputs, **given, training=not given, stats="batch" if given else stats, impl="native",
            scale="absolute" if absolute else "residual", activation=activation, upsample=upsample,
        )  # fmt: skip
        expected = formula.norm(
            dy, *inputs, groups={"batch": 0, "instance": shape[1], "none": -1, "running": 0}[stats],
            slope={"relu": 0.0, "leaky_relu": 0.2, "silu": 1.0}[activation], silu=activation == "silu",
            absolute=absolute, upsample=upsample, given=running if given else None,
        )  # fmt: skip
        results = (y.detach(), *torch.autograd.grad(y, inputs, dy))
        worst = formula.worst(results, expected[: len(results)])
        assert worst < formula.TOLERANCE[torch.float32], (upsample, absolute, masked)


@pytest.mark.parametrize("shape", [(1, 1, 256, 256), (1, 4096, 4, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_results_are_rounded_as_torch_rounds(dtype, shape):
    """Every number there is, subnormals, inf and NaN too, times a few."""
    x = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).view(shape)
    for factor in (1.0, 1 / 3, 0.7, 1.0039, 3e-38):
        gamma = torch.full(shape[:2], factor)
        y = masked_affine_norm(x, gamma, torch.zeros_like(gamma), stats="none", scale="absolute", impl="native")
        expected = (x.float() * factor).to(dtype)
        assert torch.equal(y.isnan(), expected.isnan())
        assert torch.equal(y.nan_to_num(), expected.nan_to_num())


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 3), c=st.integers(1, 40), h=st.integers(1, 20), w=st.integers(2, 40),
    upsample=st.sampled_from([1, 2]), last=st.booleans(), slope=st.sampled_from([0.0, 0.2, 1.0]),
)  # fmt: skip
def test_any_shape_agrees_with_float64(n, c, h, w, upsample, last, slope):
    tensors = problem(n, c, h, w, upsample=upsample, last=last)
    options = dict(groups=0, slope=slope, upsample=upsample)
    # Few values may lie close together, and their 1/std magnifies rounding.
    assert formula.worst(run(*tensors, **options), formula.norm(*tensors, **options)) < 1e-9


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("upsample", [1, 2])
@pytest.mark.parametrize("side", [4, 16])
def test_a_mean_of_ten_thousand_deviations_costs_no_digits(side, upsample, last):
    tensors = problem(4, 20, side, side, upsample=upsample, dtype=torch.float32, last=last, mean=1e4)
    options = dict(groups=0, slope=0.2, upsample=upsample)
    assert formula.worst(run(*tensors, **options), formula.norm(*tensors, **options)) < 1e-4


def test_rows_that_begin_far_from_the_rest_cost_no_digits():
    """Sums are shifted by the first value, which must not matter where it is the odd one out."""
    x = problem(2, 5, 32, 64, dtype=torch.float32)[1]
    x[:, :, 0, 0] += 1e4
    mean, var = OPS.masked_affine_norm_statistics(x, 5)
    rows = x.double().flatten(2).flatten(0, 1)
    torch.testing.assert_close(mean, rows.mean(1), rtol=0, atol=1e-4)  # of 221 deviations
    torch.testing.assert_close(var, rows.var(1, correction=0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(3, 40, 16, 16), (1, 3, 300, 300), (2, 5, 7, 3), (5, 70, 4, 4)], ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_any_number_of_threads_gives_the_same_bits(shape, last):
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            for upsample in (1, 2):
                tensors = problem(*shape, upsample=upsample, dtype=torch.float32, last=last)
                results.append((upsample, run(*tensors, groups=0, slope=0.2, upsample=upsample)))
    finally:
        torch.set_num_threads(before)
    for upsample, values in results:
        first = next(v for u, v in results if u == upsample)
        assert all(torch.equal(a, b) for a, b in zip(first, values, strict=True))


@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu"])
@pytest.mark.parametrize("upsample", [1, 2])
def test_backward_keeps_one_feature_map(upsample, activation):
    _, x, gamma, beta, mask = problem(2, 8, 16, 16, upsample=upsample, dtype=torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        masked_affine_norm(
            x.requires_grad_(), gamma, beta, mask, upsample=upsample, activation=activation, impl="native"
        )
    assert [t.shape for t in kept if t.dim() == 4 and t.shape[1] > 1] == [x.shape]


def test_only_the_gradients_asked_for_are_computed():
    dy, x, gamma, beta, mask = problem(2, 8, 6, 6)
    mean, var = OPS.masked_affine_norm_statistics(x, 0)
    empty = OPS.masked_affine_norm_backward(
        dy, x, gamma, beta, mask, mean, var, True, False, False, False, *OPTIONS
    )
    assert [t.numel() for t in empty] == [0, 0, 0, 0]
    beta.requires_grad_()
    y = masked_affine_norm(x, gamma, beta, mask, impl="native")
    y.backward(dy)
    torch.testing.assert_close(beta.grad, (dy * mask).sum((2, 3)))


def test_a_gradient_in_another_layout_is_read_as_it_lies():
    dy, x, gamma, beta, mask = problem(2, 8, 6, 6)
    options = dict(groups=0, slope=0.2, upsample=1)
    expected = run(dy, x, gamma, beta, mask, **options)
    for other in (dy.contiguous(memory_format=torch.channels_last), dy.mT.contiguous().mT, dy[:1].expand_as(dy)):
        dy_truth = other.contiguous()
        expected = run(dy_truth, x, gamma, beta, mask, **options)
        for a, b in zip(run(other, x, gamma, beta, mask, **options), expected, strict=True):
            torch.testing.assert_close(a, b)


def test_a_third_derivative_is_refused():
    _, x, gamma, beta, mask = problem(2, 3, 3, 3)
    x.requires_grad_()
    y = masked_affine_norm(x, gamma, beta, mask, impl="native")
    (first,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="a third was asked for"):
        second.pow(2).sum().backward()


def test_forward_mode_and_functional_transforms_take_the_reference():
    _, x, gamma, beta, mask = problem(2, 3, 4, 4)
    tangent = torch.randn_like(x)

    def norm(x, impl="auto"):
        return masked_affine_norm(x, gamma, beta, mask, activation="relu", impl=impl)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        _, slope = torch.func.jvp(norm, (x,), (tangent,))
    numeric = (norm(x + 1e-6 * tangent) - norm(x - 1e-6 * tangent)) / 2e-6
    torch.testing.assert_close(slope, numeric, atol=1e-7, rtol=1e-6)
    functional = torch.func.grad(lambda x: norm(x).pow(2).sum())(x)
    x.requires_grad_()
    torch.testing.assert_close(functional, torch.autograd.grad(norm(x).pow(2).sum(), x)[0])
    with pytest.raises(RuntimeError, match=r"torch\.func"):
        torch.func.grad(lambda x: norm(x, "native").sum())(x)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("op", ["statistics", "forward", "backward", "backward_sums", "backward_input"])
def test_torch_finds_the_registration_of_each_op_in_order(op, last):
    dy, x, gamma, beta, mask = problem(3, 5, 4, 4, upsample=2, dtype=torch.float32, last=last)
    mean, var = OPS.masked_affine_norm_statistics(x, 0)
    rest = (gamma, beta, mask, mean, var)
    twice = (*OPTIONS[:-1], 2)
    if op in ("forward", "backward"):
        for t in (dy, x, gamma, beta, mask):
            t.requires_grad_()
    arguments = {
        "statistics": [(x, 0), (x, 5)],
        "forward": [
            (x, gamma, beta, mask, None, None, *twice),
            (x, gamma, beta, None, mean, var, *OPTIONS),
        ],
        "backward": [
            (dy, x, *rest, False, True, True, True, *twice),
            (dy, x, *rest, True, True, False, False, *twice),
        ],
        "backward_sums": [(dy, x, *rest, True, *twice)],
        "backward_input": [(dy, x, *rest, torch.zeros(2, 5).double(), *twice)],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dynamo's own deprecations
        for given_arguments in arguments[op]:
            torch.library.opcheck(getattr(OPS, f"masked_affine_norm_{op}").default, given_arguments)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("groups", [-1, 0, 5])
def test_torch_knows_shapes_strides_and_dtypes_of_every_option(groups, last):
    tests = ("test_schema", "test_faketensor")
    for silu, absolute, upsample, maps in itertools.product((False, True), (False, True), (1, 2), (False, True)):
        dy, x, gamma, beta, mask = problem(3, 5, 4, 4, upsample=upsample, dtype=torch.bfloat16, last=last)
        gamma, mask = (torch.randn_like(dy), None) if maps else (gamma, mask.half())
        beta = torch.randn_like(dy).float() if maps else beta.double()
        options = (groups, 1e-5, 0.2, silu, absolute, upsample)
        arguments = (x, gamma, beta, mask)
        torch.library.opcheck(FORWARD, (*arguments, None, None, *options), test_utils=tests)
        _, mean, var = FORWARD(*arguments, None, None, *options)
        for needs in ((True, True, True), (True, False, False), (False, True, False)):
            backward = (dy, *arguments, mean, var, False, *needs, *options)
            torch.library.opcheck(OPS.masked_affine_norm_backward.default, backward, test_utils=tests)


def test_torch_knows_that_running_statistics_are_written():
    _, x, gamma, beta, mask = problem(3, 5, 4, 4, dtype=torch.float32)
    running = torch.zeros(5), torch.ones(5), 0.1, 1
    torch.library.opcheck(
        OPS.masked_affine_norm_forward_running.default, (x, gamma, beta, mask, *running, *OPTIONS),
        test_utils="test_schema",
    )  # fmt: skip


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_torch_finds_the_registration_of_a_chain_in_order(last):
    dy, x, *_ = (t.requires_grad_() for t in problem(3, 5, 4, 4, upsample=2, dtype=torch.float32, last=last))
    gammas, betas = (torch.randn(2, 3, 5, requires_grad=True) for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dynamo's own deprecations
        torch.library.opcheck(OPS.affine_chain_forward.default, (x, gammas, betas, 0.2, True, 2))
        arguments = dy, x, gammas, betas, 0.2, True, 2
        torch.library.opcheck(OPS.affine_chain_backward.default, (*arguments, True, True))
        for needs in ((True, False), (False, True)):
            torch.library.opcheck(
                OPS.affine_chain_backward.default,
                (*arguments, *needs),
                test_utils=("test_schema", "test_faketensor"),
            )


def test_the_ops_refuse_what_they_would_misread():
    dy, x, gamma, beta, mask = problem(2, 4, 3, 3, dtype=torch.float32)
    for bad, message in (
        ((x.long(), gamma, beta, mask), "x must be float32, float64, float16 or bfloat16"),
        ((x[0], gamma, beta, mask), r"\(N, C, H, W\)"),
        ((x, gamma.long(), beta, mask), "gamma must be float32, float64, float16 or bfloat16"),
        ((x, gamma, beta[:1], mask), "beta has the wrong shape"),
        ((x, gamma, beta, mask[..., :2]), "mask has the wrong shape"),
    ):
        with pytest.raises(RuntimeError, match=message):
            OPS.masked_affine_norm_forward(*bad, None, None, *OPTIONS)
    mean, var = OPS.masked_affine_norm_statistics(x, 0)
    with pytest.raises(RuntimeError, match="shape and device of y"):
        OPS.masked_affine_norm_backward_sums(dy[..., :2], x, gamma, beta, mask, mean, var, True, *OPTIONS)


def test_under_autocast_features_keep_their_dtype_and_statistics_are_exact():
    _, x, gamma, beta, mask = problem(2, 8, 6, 6, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        y = masked_affine_norm(x, gamma.bfloat16(), beta.bfloat16(), mask.bfloat16(), impl="native")
        full = masked_affine_norm(x.float(), gamma, beta, mask, impl="native")
    assert (y.dtype, full.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(full, masked_affine_norm(x.float(), gamma, beta, mask, impl="reference"))


def test_torch_compiles_forward_and_backward_whole_and_once():
    torch._dynamo.reset()

    def layer(x, gamma, beta, mask, impl):
        return masked_affine_norm(2 * x, gamma, beta, mask, upsample=2, activation="relu", impl=impl) + 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dynamo's own deprecations
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
        torch._dynamo.utils.counters.clear()
        for n in (2, 3, 5):
            _, *tensors = problem(n, 5, 4, 4, upsample=2)
            results = []
            for function, impl in ((compiled, "native"), (layer, "reference")):
                leaves = [t.clone().requires_grad_() for t in tensors]
                y = function(*leaves, impl)
                results.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
            for a, b in zip(*results, strict=True):
                torch.testing.assert_close(a, b)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_an_exported_program_has_ordinary_operations_only():
    class Layer(torch.nn.Module):
        def forward(self, x, gamma, beta, mask):
            return masked_affine_norm(x, gamma, beta, mask, upsample=2)

    _, *tensors = problem(2, 5, 4, 4, upsample=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # export's own deprecations
        program = torch.export.export(Layer(), tuple(tensors))
    assert all("t2ilayers" not in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(*tensors), Layer()(*tensors))

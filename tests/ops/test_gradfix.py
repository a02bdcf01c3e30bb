"""The functions of ops._gradfix against torch's own: the same values and derivatives, at less cost."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from t2ilayers.layers import Conv2d, LeakyReLU
from t2ilayers.losses import gradient_penalty
from t2ilayers.models import MatchingAwareDiscriminator
from t2ilayers.ops import average_pool2d, conv2d, leaky_relu

GEOMETRIES = {
    "3": (3, {"padding": 1}),
    "halving": (4, {"stride": 2, "padding": 1}),
    "4": (4, {}),
    "1": (1, {}),
    "stride": (3, {"stride": 2}),
    "pairs": ((2, 3), {"stride": (1, 2), "padding": (0, 2)}),
    "lists": (2, {"stride": [2], "padding": [1, 0]}),
    "same": (3, {"padding": "same", "dilation": (1, 2)}),
    "same, odd in sum": ((2, 4), {"padding": "same"}),
    "valid": (3, {"padding": "valid", "stride": 2}),
    "groups": (3, {"groups": 2, "dilation": 2, "padding": 2}),
}


def tensors(kernel, dtype=torch.float64, bias=True, groups=1):
    torch.manual_seed(0)
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    x = torch.randn(2, 4, 7, 6, dtype=dtype, requires_grad=True)
    weight = torch.randn(6, 4 // groups, *sides, dtype=dtype, requires_grad=True)
    return x, weight, torch.randn(6, dtype=dtype, requires_grad=True) if bias else None


@pytest.mark.parametrize("name", ["3", "halving", "pairs", "same, odd in sum", "groups"])
@pytest.mark.parametrize("bias", [True, False])
def test_finite_differences_to_second_order(name, bias):
    kernel, options = GEOMETRIES[name]
    inputs = tensors(kernel, bias=bias, groups=options.get("groups", 1))

    def function(*inputs):
        return conv2d(*inputs, **options)

    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", GEOMETRIES)
def test_three_orders_agree_with_torch(name):
    kernel, options = GEOMETRIES[name]

    def derivatives(convolution):
        x, weight, bias = tensors(kernel, groups=options.get("groups", 1))
        y = convolution(x, weight, bias, **options)
        (first,) = torch.autograd.grad(y.tanh().sum(), x, create_graph=True)
        second = torch.autograd.grad(first.pow(3).sum(), (x, weight, bias), create_graph=True)
        third = torch.autograd.grad(sum(t.square().sum() for t in second), (x, weight, bias))
        return y, first, *second, *third

    for ours, theirs in zip(derivatives(conv2d), derivatives(F.conv2d), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_the_layer_takes_what_torch_s_takes(name, padding_mode):
    kernel, options = GEOMETRIES[name]
    options = options | {"stride": tuple(options["stride"] * 2)} if name == "lists" else options
    plain = torch.nn.Conv2d(4, 6, kernel, **options, padding_mode=padding_mode)
    ours = Conv2d(4, 6, kernel, **options, padding_mode=padding_mode)
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(2, 4, 8, 6)
    assert torch.equal(ours(x), plain(x))
    assert repr(ours) == repr(plain)


def test_what_torch_refuses_is_refused_in_its_words():
    x, weight, bias = tensors(3)
    for options in ({"padding": "same", "stride": 2}, {"padding": "around"}, {"groups": 4}):
        with pytest.raises((RuntimeError, ValueError)) as expected:
            F.conv2d(x, weight, bias, **options)
        with pytest.raises(expected.type) as found:
            conv2d(x, weight, bias, **options)
        assert str(found.value) == str(expected.value)


def test_unbatched_and_positional_as_torch_s():
    x, weight, bias = tensors(3)
    assert torch.equal(conv2d(x[0], weight, bias, 2, 1), F.conv2d(x[0], weight, bias, 2, 1))
    assert Conv2d(4, 8, 3, 2, 1)(x[0].float()).shape == (8, 4, 3)


def gradients_by(which, convolution, weights_from):
    """Of a penalty and of its gradients, by tensors that the kernel may be made of."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    cond = torch.randn(4, dtype=torch.float64, requires_grad=True)
    base = torch.randn(4, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    weight = base * cond[:, None, None, None] if weights_from == "cond" else base
    bias = cond if weights_from == "cond" else None
    y = convolution(x, weight, bias, padding=1).tanh().sum()
    asked = {"x": [x], "cond": [cond], "weight": [weight], "all": [x, cond, base], "weight, x": [weight, x]}[which]
    first = torch.autograd.grad(y, asked, create_graph=True, allow_unused=True)
    penalty = sum(g.pow(2).sum() for g in first if g is not None)
    second = torch.autograd.grad(penalty, [x, cond, base], allow_unused=True)
    return *first, *second


@pytest.mark.parametrize("weights_from", ["cond", "parameter"])
@pytest.mark.parametrize("which", ["x", "cond", "weight", "all", "weight, x"])
def test_gradients_by_weights_are_left_out_only_where_nobody_asks(which, weights_from):
    if (which, weights_from) == ("cond", "parameter"):
        pytest.skip("no such path")
    ours = gradients_by(which, conv2d, weights_from)
    for found, expected in zip(ours, gradients_by(which, F.conv2d, weights_from), strict=True):
        assert (found is None) == (expected is None)
        if expected is not None:
            torch.testing.assert_close(found, expected)


def test_a_penalty_in_one_thread_leaves_another_s_gradients_alone():
    inside, done = threading.Event(), threading.Event()

    class Waits(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, dy):
            inside.set()
            done.wait(10)
            return dy

    def penalty():
        x, weight, _ = tensors(3)
        torch.autograd.grad(Waits.apply(conv2d(Waits.apply(x), weight)).sum(), x, create_graph=True)

    thread = threading.Thread(target=penalty)
    thread.start()
    assert inside.wait(10)
    x, weight, _ = tensors(3)
    (dweight,) = torch.autograd.grad(conv2d(x, weight).square().sum(), weight, create_graph=True)
    done.set()
    thread.join()
    torch.testing.assert_close(
        dweight, torch.autograd.grad(F.conv2d(x, weight).square().sum(), weight, create_graph=True)[0]
    )


@pytest.mark.parametrize("create_graph", [False, True])
def test_many_gradients_at_once(create_graph):
    """``is_grads_batched``: vmap over a backward pass."""

    def jacobian(convolution, activation, pool):
        x, weight, bias = tensors(3)
        y = pool(activation(convolution(x, weight, bias, padding=1)[..., :6, :])).flatten()[:5]
        basis = torch.eye(5, dtype=torch.float64)
        found = torch.autograd.grad(y, (x, weight, bias), basis, is_grads_batched=True, create_graph=create_graph)
        if create_graph:
            found += torch.autograd.grad(sum(t.square().sum() for t in found), (x, weight))
        return found

    ours = jacobian(conv2d, leaky_relu, average_pool2d)
    theirs = jacobian(F.conv2d, lambda x: F.leaky_relu(x, 0.2), lambda x: F.avg_pool2d(x, 2))
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected)


def test_layout_and_dtype_are_those_of_torch():
    x, weight, bias = tensors(3, torch.float32)
    x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y, expected = conv2d(x, weight, bias, padding=1), F.conv2d(x, weight, bias, padding=1)
        assert y.dtype == dtype
        assert y.stride() == expected.stride()
        assert torch.equal(y, expected)


def test_under_torch_func_it_is_torch_s_own():
    x, weight, bias = (t.detach() for t in tensors(3))
    found = torch.func.grad(lambda x: conv2d(x, weight, bias).square().sum())(x)
    expected = torch.func.grad(lambda x: F.conv2d(x, weight, bias).square().sum())(x)
    torch.testing.assert_close(found, expected)


def test_a_penalty_takes_no_gradient_by_weights_that_it_throws_away_and_no_convolution_by_whole_maps():
    layer = Conv2d(3, 8, 3, padding=1)
    images = torch.randn(4, 3, 16, 16, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as events:
        penalty = gradient_penalty(layer(images).square().sum((1, 2, 3)), [images])
    by_weight = [event for event in events.events() if event.name == "_ByWeight"]
    assert by_weight == []
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as events:
        penalty.backward()
    kernels = [e.input_shapes[1] for e in events.events() if e.name == "aten::convolution"]
    assert kernels
    assert all(shape[2:] == [3, 3] for shape in kernels)
    assert layer.weight.grad.norm() > 0


def test_leaky_relu_has_torch_s_derivatives():
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.equal(leaky_relu(x, 0.3), F.leaky_relu(x, 0.3))
    assert torch.equal(LeakyReLU(0.3)(x), leaky_relu(x, 0.3))
    assert torch.autograd.gradcheck(leaky_relu, x)
    assert torch.autograd.gradgradcheck(leaky_relu, x)


def test_average_pool_has_torch_s_derivatives():
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(average_pool2d(x), F.avg_pool2d(x, 2))
    assert torch.autograd.gradcheck(average_pool2d, x)
    assert torch.autograd.gradgradcheck(average_pool2d, x)
    with pytest.raises(ValueError, match=r"even H and W, got \(2, 3, 4, 5\)"):
        average_pool2d(x[..., :5])


def test_a_penalty_has_torch_s_gradients_and_does_not_run_backward_on_zeros():
    torch.manual_seed(0)
    ours = MatchingAwareDiscriminator(image_size=16, ndf=4, cond_dim=8).double()
    for block in ours.blocks:
        block.gamma.data.fill_(0.5)
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    cond = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)

    def plain(images, cond):
        """The discriminator of torch's own functions."""
        x = F.conv2d(images, ours.from_image.weight, ours.from_image.bias, padding=1)
        for block in ours.blocks:
            residual = F.leaky_relu(F.conv2d(x, block.residual[0].weight, stride=2, padding=1), 0.2)
            residual = F.leaky_relu(F.conv2d(residual, block.residual[2].weight, padding=1), 0.2)
            pooled = F.avg_pool2d(x, 2)
            if not isinstance(block.shortcut, torch.nn.Identity):
                pooled = F.conv2d(pooled, block.shortcut.weight, block.shortcut.bias)
            x = pooled + block.gamma * residual
        joint = torch.cat([x, cond[:, :, None, None].expand(-1, -1, 4, 4)], 1)
        hidden = F.leaky_relu(F.conv2d(joint, ours.head.layers[0].weight, padding=1), 0.2)
        return F.conv2d(hidden, ours.head.layers[2].weight).flatten()

    found = {}
    for name, function in (("ours", ours), ("plain", plain)):
        ours.zero_grad()
        penalty = gradient_penalty(function(images, cond), [images, cond])
        with profile(activities=[ProfilerActivity.CPU]) as events:
            penalty.backward()
        calls = sum(event.name == "aten::convolution_backward" for event in events.events())
        found[name] = penalty, {k: p.grad for k, p in ours.named_parameters()}, calls
    torch.testing.assert_close(found["ours"][0], found["plain"][0])
    for key, expected in found["plain"][1].items():
        grad = found["ours"][1][key]
        torch.testing.assert_close(grad, expected, msg=lambda text, key=key: f"{key}: {text}")
    convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in ours.modules())
    assert found["ours"][2] == convolutions  # the gradient by each one's weights, and nothing else

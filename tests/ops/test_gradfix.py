"""The functions of ops._gradfix against torch's own: the same values and derivatives, at less cost."""

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from t2ilayers.layers import Conv2d, LeakyReLU
from t2ilayers.losses import gradient_penalty
from t2ilayers.models import MatchingAwareDiscriminator
from t2ilayers.ops import average_pool2d, conv2d, leaky_relu

GEOMETRIES = [(3, 1, 1), (4, 2, 1), (4, 1, 0), (1, 1, 0), (3, 2, 0)]  # kernel, stride, padding


def tensors(kernel, dtype=torch.float64, bias=True):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 7, 6, dtype=dtype, requires_grad=True)
    weight = torch.randn(5, 3, kernel, kernel, dtype=dtype, requires_grad=True)
    return x, weight, torch.randn(5, dtype=dtype, requires_grad=True) if bias else None


@pytest.mark.parametrize(("kernel", "stride", "padding"), GEOMETRIES)
@pytest.mark.parametrize("bias", [True, False])
def test_finite_differences_to_second_order(kernel, stride, padding, bias):
    inputs = tensors(kernel, bias=bias)

    def function(*inputs):
        return conv2d(*inputs, stride=stride, padding=padding)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize(("kernel", "stride", "padding"), GEOMETRIES)
def test_three_orders_agree_with_torch(kernel, stride, padding):
    def derivatives(convolution):
        x, weight, bias = tensors(kernel)
        y = convolution(x, weight, bias, stride=stride, padding=padding)
        (first,) = torch.autograd.grad(y.tanh().sum(), x, create_graph=True)
        second = torch.autograd.grad(first.pow(3).sum(), (x, weight, bias), create_graph=True)
        third = torch.autograd.grad(sum(t.square().sum() for t in second), (x, weight, bias))
        return y, first, *second, *third

    for ours, theirs in zip(derivatives(conv2d), derivatives(F.conv2d), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


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


def test_the_layer_loads_torch_s_checkpoints_and_agrees():
    plain = torch.nn.Conv2d(3, 8, 4, stride=2, padding=1)
    ours = Conv2d(3, 8, 4, stride=2, padding=1)
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(ours(x), plain(x))
    assert repr(ours) == repr(plain)


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
        if grad is None:
            assert expected.count_nonzero() == 0
            assert key.endswith("bias")
        else:
            torch.testing.assert_close(grad, expected)
    convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in ours.modules())
    assert found["ours"][2] == convolutions  # the gradient by each one's weights, and nothing else

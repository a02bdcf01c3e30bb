"""conv2d against torch's own convolution, whose values and derivatives of every order it must share."""

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from t2ilayers.layers import Conv2d
from t2ilayers.losses import gradient_penalty
from t2ilayers.ops import conv2d

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

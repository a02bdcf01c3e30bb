"""Each fast form against the modules that it replaces; and what is called, because something hangs on it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from t2ilayers.ops._fast import (
    add_upsampled,
    channels_last,
    fastest_layout,
    few_channels_conv2d,
    folded_conv2d,
    folds,
    is_plain,
    joint_mlps,
    scaled_conv2d,
    upsampled_conv2d,
    upsamples,
)

FORMATS = [torch.contiguous_format, torch.channels_last]


def grads(y, inputs):
    dy = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return torch.autograd.grad(y, inputs, dy)


def mlp(d, hidden, c):
    return nn.Sequential(nn.Linear(d, hidden), nn.ReLU(), nn.Linear(hidden, c))


class Mine(nn.Conv2d):
    pass


def hooked(hook):
    def change(conv):
        getattr(conv, f"register_{hook}")(lambda *_: None)

    return change


def forward_replaced(conv):
    conv.forward = lambda x: x


def tiled(conv):
    """As seamless textures are made: the instance's own way to convolve."""
    conv._conv_forward = lambda x, weight, bias: x


def sharded(conv):
    conv.weight = nn.Parameter(torch.nn.Buffer(conv.weight.detach()).as_subclass(Subclass))


class Subclass(torch.Tensor):
    pass


def weight_taken_out(conv):
    """As FSDP1 leaves a module: a plain attribute instead of a parameter."""
    weight = conv.weight.detach()
    del conv._parameters["weight"]
    conv.weight = weight


NOT_PLAIN = {
    "spectral norm by hook": spectral_norm,
    "spectral norm by parametrization": parametrizations.spectral_norm,
    "weight norm by hook": weight_norm,
    "weight norm by parametrization": parametrizations.weight_norm,
    "pruned": lambda conv: prune.l1_unstructured(conv, "weight", amount=0.5),
    "forward hook": hooked("forward_hook"),
    "forward pre-hook": hooked("forward_pre_hook"),
    "backward hook": hooked("full_backward_hook"),
    "backward pre-hook": hooked("full_backward_pre_hook"),
    "forward replaced": forward_replaced,
    "convolution replaced": tiled,
    "compiled": lambda conv: conv.compile(backend="eager"),
    "tensor subclass": sharded,
    "weight taken out": weight_taken_out,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("change", NOT_PLAIN)
def test_a_module_with_something_on_it_is_not_plain(change):
    conv = nn.Conv2d(3, 3, 1)
    assert is_plain(conv, nn.Conv2d)
    assert is_plain(copy.deepcopy(conv), nn.Conv2d)
    NOT_PLAIN[change](conv)
    assert not is_plain(conv, nn.Conv2d)


def test_subclasses_hooks_of_all_modules_replaced_classes_and_transforms_are_not_plain(monkeypatch):
    assert not is_plain(Mine(3, 3, 1), nn.Conv2d)
    conv = nn.Conv2d(3, 3, 1)
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert not is_plain(conv, nn.Conv2d)
    handle.remove()
    seen = []
    torch.func.vmap(lambda x: seen.append(is_plain(conv, nn.Conv2d)) or x)(torch.ones(2))
    assert seen == [False]
    assert is_plain(conv, nn.Conv2d)
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: x)
    assert not is_plain(conv, nn.Conv2d)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
def test_gamma_times_a_convolution(bias, padding_mode):
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=bias, padding_mode=padding_mode).double()
    x, gamma = torch.randn(2, 4, 8, 6).double(), nn.Parameter(torch.tensor([0.7]).double())
    inputs = [x.requires_grad_(), gamma, *conv.parameters()]
    y, expected = scaled_conv2d(x, conv, gamma), gamma * conv(x)
    torch.testing.assert_close(y, expected)
    for found, right in zip(grads(y, inputs), grads(expected, inputs), strict=True):
        torch.testing.assert_close(found, right)


def test_gamma_times_any_module_and_under_autocast():
    x, gamma = torch.randn(2, 4, 8, 6), nn.Parameter(torch.tensor([0.7]))
    torch.testing.assert_close(scaled_conv2d(x, nn.Tanh(), gamma), 0.7 * x.tanh())
    conv, plain = nn.Conv2d(4, 4, 1), Mine(4, 4, 1)
    plain.load_state_dict(conv.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        fast, called = scaled_conv2d(x, conv, gamma), scaled_conv2d(x, plain, gamma)
    assert fast.dtype == called.dtype == torch.bfloat16
    torch.testing.assert_close(fast, called, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtypes", [(torch.float64, torch.float64), (torch.float32, torch.bfloat16)])
def test_the_sum_with_an_upsampled_map(memory_format, dtypes):
    small = torch.randn(2, 3, 4, 5, dtype=dtypes[0]).contiguous(memory_format=memory_format).requires_grad_()
    large = torch.randn(2, 3, 8, 10, dtype=dtypes[1]).contiguous(memory_format=memory_format).requires_grad_()
    before = small.detach().clone(), large.detach().clone()
    expected = F.interpolate(small, scale_factor=2, mode="nearest") + large
    y = add_upsampled(small, large)
    assert torch.equal(y, expected)
    for found, right in zip(grads(y, [small, large]), grads(expected, [small, large]), strict=True):
        assert torch.equal(found, right)
    with torch.no_grad():
        y = add_upsampled(small, large)
        assert torch.equal(y, expected)
        assert y.is_contiguous(memory_format=memory_format)
    assert torch.equal(small, before[0])
    assert torch.equal(large, before[1])
    batched = torch.func.vmap(add_upsampled, (None, 0))(small, torch.stack([large, 2 * large]))
    assert torch.equal(batched[1], F.interpolate(small, scale_factor=2, mode="nearest") + 2 * large)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(("width", "bias"), [(32, True), (16, False), (30, True)])
def test_a_convolution_to_few_channels(memory_format, width, bias):
    x = torch.randn(2, 4, 8, width).contiguous(memory_format=memory_format).requires_grad_()
    conv = nn.Conv2d(4, 3, 3, padding=1, bias=bias)
    inputs = [x, *conv.parameters()]
    exact = copy.deepcopy(conv).double()
    double = x.detach().double().requires_grad_()
    y, expected = few_channels_conv2d(x, conv.weight, conv.bias), exact(double)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(few_channels_conv2d(double, exact.weight, exact.bias), expected)
    for single, right in zip(grads(y, inputs), grads(expected, [double, *exact.parameters()]), strict=True):
        torch.testing.assert_close(single.double(), right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (16, 17)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_of_an_upsampled_map(memory_format, height, width, bias):
    x = torch.randn(2, 3, height, width).double().contiguous(memory_format=memory_format).requires_grad_()
    conv = nn.Conv2d(3, 4, 3, padding=1, bias=bias).double().to(memory_format=memory_format)
    inputs = [x, *conv.parameters()]
    y = upsampled_conv2d(x, conv.weight, conv.bias)
    expected = conv(F.interpolate(x, scale_factor=2, mode="nearest"))
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    for found, right in zip(grads(y, inputs), grads(expected, inputs), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradgradcheck(
        lambda x, weight: upsampled_conv2d(x, weight).square(), (x[:, :, :2, :2], conv.weight)
    )


def three_by_three(**options):
    return nn.Conv2d(8, 8, 3, **{"padding": 1} | options)


OTHERS = {
    "kernel": three_by_three(padding=0), "stride": three_by_three(stride=2),
    "padding": three_by_three(padding="same"), "dilation": three_by_three(dilation=2, padding=2),
    "groups": three_by_three(groups=2), "border": three_by_three(padding_mode="reflect"),
    "1x1": nn.Conv2d(8, 8, 1),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_what_is_no_plain_convolution_that_keeps_the_size_is_called():
    x = torch.zeros(1, 8, 16, 16)
    assert upsamples(x, three_by_three())
    assert upsamples(x.double(), three_by_three(bias=False).double())
    for name, conv in OTHERS.items():
        assert not upsamples(x, conv), name
    for name, change in NOT_PLAIN.items():
        conv = three_by_three()
        change(conv)
        assert not upsamples(x, conv), name
    assert not upsamples(x[:, :, :15], three_by_three())
    assert not upsamples(x.bfloat16(), three_by_three().bfloat16())
    assert not upsamples(x.to("meta"), three_by_three(device="meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not upsamples(x, three_by_three())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_batch_norm_folded_into_the_convolution_before_it(bias, affine, dtype):
    conv, norm = nn.Conv2d(4, 6, 3, padding=1, bias=bias), nn.BatchNorm2d(6, affine=affine)
    for p in norm.parameters():
        nn.init.uniform_(p, 0.5, 2)
    for _ in range(3):
        norm(conv(3 * torch.randn(4, 4, 5, 6) + 1))
    assert not folds(conv, norm.eval())  # gradients
    with torch.no_grad():
        assert not folds(conv, norm.train())
        assert not folds(conv, nn.BatchNorm2d(6, track_running_stats=False).eval())
        assert not folds(conv, nn.GroupNorm(2, 6))
        assert folds(conv, norm.eval())
        x = torch.randn(2, 4, 5, 6)
        exact = norm.double()(conv.double()(x.double()))
        y = folded_conv2d(x.to(dtype), conv.to(dtype), norm)  # a norm that stays exact, as people keep it
        assert y.dtype == dtype
        tolerance = 1e-10 if dtype == torch.float64 else 0.05
        torch.testing.assert_close(y.double(), exact, rtol=tolerance, atol=tolerance)


def test_mlps_of_one_condition_or_of_one_each():
    class Wrapped(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, cond):
            return 2 * self.inner(cond)

    no_bias = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3, bias=False))
    silu = nn.Sequential(nn.Linear(5, 7), nn.SiLU(), nn.Linear(7, 3))
    normed = mlp(5, 7, 3)
    spectral_norm(normed[0])
    normed.eval()  # or each call takes a step of the power iteration
    modules = [
        mlp(5, 7, 3),
        mlp(5, 7, 4),
        Wrapped(mlp(5, 7, 3)),
        mlp(5, 7, 3),
        mlp(5, 6, 4),
        no_bias,
        silu,
        normed,
    ]
    modules = nn.ModuleList(modules).double()
    cond = torch.randn(2, 5).double().requires_grad_()
    states = [torch.randn(2, 5).double().requires_grad_() for _ in modules]
    for given, each, conds in ((cond, [cond] * 8, [cond]), (states, states, states)):
        inputs = [*conds, *(p for p in modules.parameters() if p.requires_grad)]
        found, expected = joint_mlps(given, modules), [m(e) for m, e in zip(modules, each, strict=True)]
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)
        pairs = zip(grads(torch.cat(found, 1), inputs), grads(torch.cat(expected, 1), inputs), strict=True)
        for a, b in pairs:
            torch.testing.assert_close(a, b)
    assert joint_mlps(cond, []) == []


@pytest.mark.parametrize("shared", [True, False])
def test_mlps_are_few_products(shared):
    modules = [mlp(5, 7, 3), mlp(5, 7, 4), mlp(5, 7, 3), mlp(5, 7, 4)]
    cond = torch.randn(2, 5) if shared else [torch.randn(2, 5) for _ in modules]
    with torch.profiler.profile(acc_events=True) as profile:  # torch 2.11 warns of the default
        joint_mlps(cond, modules)
    events = profile.key_averages()
    assert sum(event.count for event in events if event.key in ("aten::addmm", "aten::baddbmm")) == 3


def test_layouts_are_left_alone_under_torch_func():
    x = torch.randn(2, 3, 4, 4)
    assert channels_last(x).is_contiguous(memory_format=torch.channels_last)
    assert fastest_layout(x, "native").is_contiguous(memory_format=torch.channels_last)
    assert fastest_layout(x, "reference") is x
    for function in (channels_last, fastest_layout):
        assert torch.equal(torch.func.vmap(function)(x[None])[0], x)

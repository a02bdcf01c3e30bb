"""What people hang on modules acts: each layer and model against its formula, with children that are called.

With and without gradients, in both modes, after a copy, and after saving and loading.
"""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from written import written

from t2ilayers.layers import ActivatedBatchNorm, SPADE2d
from t2ilayers.layers.conditional_norm import ConditionalNorm2d

from subjects import SUBJECTS, first, inputs, make

LEAVES = (nn.Conv2d, nn.Linear)


def on_leaves(put):
    """A change of every convolution and Linear in place."""

    def change(module):
        for leaf in [part for part in module.modules() if isinstance(part, LEAVES)]:
            put(leaf)
        return module

    return change


def replacing(kinds, by):
    """A change that puts another module in the place of some."""

    def change(module):
        for parent in list(module.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, kinds) and not isinstance(parent, Adapter):
                    setattr(parent, name, by(child))
        return module

    return change


class Adapter(nn.Module):
    """As peft's LoRA layers: another path beside the one of the base layer, whose weight it shows."""

    def __init__(self, base):
        super().__init__()
        self.base, self.beside = base, copy.deepcopy(base)
        nn.init.normal_(self.beside.weight, std=0.3)

    @property
    def weight(self):
        return self.base.weight

    @property
    def bias(self):
        return self.base.bias

    def forward(self, x):
        return self.base(x) + 0.5 * self.beside(x)


class Renamed(nn.BatchNorm2d):
    """A batch norm of a user's own: what it does is its own affair."""

    def forward(self, x):
        return super().forward(x) * 1.5


def scaled(module, args, output):
    return 1.25 * output


def shifted(module, args):
    return (args[0] + 0.25,)


def hook_leaves(module):
    """Hooks that change results, on everything of torch's own."""
    for part in module.modules():
        if type(part).__module__.startswith("torch.nn") and not list(part.children()):
            part.register_forward_hook(scaled)
            if not isinstance(part, nn.Embedding):
                part.register_forward_pre_hook(shifted)
    return module


CHANGES = {
    "nothing": lambda module: module,
    "spectral norm by hook": on_leaves(spectral_norm),
    "spectral norm": on_leaves(parametrizations.spectral_norm),
    "weight norm by hook": on_leaves(weight_norm),
    "weight norm": on_leaves(parametrizations.weight_norm),
    "pruned": on_leaves(lambda leaf: prune.l1_unstructured(leaf, "weight", amount=0.5)),
    "LoRA": replacing(LEAVES, Adapter),
    "other activations": replacing((nn.ReLU, nn.LeakyReLU), lambda child: nn.Softplus()),
    "no norm": replacing(nn.BatchNorm2d, lambda child: nn.Identity()),
    "group norm": replacing(nn.BatchNorm2d, lambda child: nn.GroupNorm(1, child.num_features).double()),
    "own batch norm": replacing(nn.BatchNorm2d, lambda child: Renamed(child.num_features).double()),
    "hooks": hook_leaves,
}
NO_COPY = {"weight norm by hook"}  # torch's own module cannot be copied with it
NO_PICKLE = {"weight norm by hook", "spectral norm", "weight norm"}  # nor pickled

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated"),
    pytest.mark.filterwarnings("ignore:.*[sS]pectral_norm.* is deprecated"),
]


def assert_equal(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", SUBJECTS)
def test_a_module_is_its_formula_whatever_hangs_on_it(name, change):
    module, again = (make(name, CHANGES[change]) for _ in range(2))
    given, same = inputs(name), inputs(name)
    for training in (True, False):
        y, expected = first(module.train(training)(*given)), written(again.train(training), *same)
        assert_equal(y, expected)
        with torch.no_grad():
            if not training:  # a call in training mode would move statistics
                assert_equal(first(module(*given)), expected)
    dy = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    y.backward(dy)
    expected.backward(dy)
    for found, right in zip(given, same, strict=True):
        if found.is_floating_point():
            assert_equal(found.grad, right.grad)
    for (key, p), right in zip(module.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(
            p.grad, right.grad, rtol=1e-9, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}"
        )
    for key, buffer in module.named_buffers():
        assert_equal(buffer, again.get_buffer(key))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", SUBJECTS)
def test_copies_and_saved_states_draw_the_same(name, change):
    module, given = make(name, CHANGES[change]), inputs(name)
    other = make(name, CHANGES[change], seed=5)
    with torch.no_grad():
        module(*given)  # statistics and power iterations move
        copies = []
        if change not in NO_COPY:
            copies.append(copy.deepcopy(module))
        if change not in NO_PICKLE:
            copies.append(pickle.loads(pickle.dumps(module)))
        other.load_state_dict(module.state_dict())
        expected = first(module.eval()(*given))
        for one in (*copies, other):
            assert torch.equal(first(one.eval()(*given)), expected)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # classes have no gradient
@pytest.mark.parametrize("name", SUBJECTS)
def test_every_module_runs_its_hooks(name):
    module, seen = make(name), {"forward": set(), "pre": set(), "backward": set()}
    expected = {key for key, part in module.named_modules() if not isinstance(part, nn.ModuleList)}
    for key, part in module.named_modules():
        part.register_forward_hook(lambda *_, key=key: seen["forward"].add(key))
        part.register_forward_pre_hook(lambda *_, key=key: seen["pre"].add(key))
        part.register_full_backward_hook(lambda *_, key=key: seen["backward"].add(key))
    first(module(*inputs(name))).sum().backward()
    assert seen == {"forward": expected, "pre": expected, "backward": expected}


def test_hooks_of_all_modules_run():
    module, seen = make("SSAGenerator"), []
    handle = nn.modules.module.register_module_forward_hook(lambda part, *_: seen.append(part))
    try:
        module(*inputs("SSAGenerator"))
    finally:
        handle.remove()
    assert set(seen) == {part for part in module.modules() if not isinstance(part, nn.ModuleList)}


@pytest.mark.parametrize("name", ["SemanticAffineBN", "DFAffineBlock", "SSAConv, upsampling", "SSAGenerator"])
def test_quantized_linears_are_called(name):
    module = make(name).float().eval()
    given = [t.detach().float() for t in inputs(name)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao's deprecation
        quantized = torch.ao.quantization.quantize_dynamic(copy.deepcopy(module), {nn.Linear}, dtype=torch.qint8)
    with torch.no_grad():
        y = first(quantized(*given))
        torch.testing.assert_close(y, written(quantized, *given), rtol=1e-4, atol=1e-4)
        exact = first(module(*given))
        assert 0 < (y - exact).norm() < 0.3 * exact.norm()


NORMS = [name for name in SUBJECTS if any(isinstance(part, nn.BatchNorm2d) for part in make(name).modules())]


@pytest.mark.parametrize("name", NORMS)
def test_converted_to_torch_s_synchronized_batch_norm_it_is_the_same_function(name):
    module, given = make(name).eval(), inputs(name)
    norms = sum(isinstance(part, nn.BatchNorm2d) for part in module.modules())
    with torch.no_grad():
        expected = first(module(*given))
        converted = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        assert_equal(first(converted(*given)), expected)
    assert sum(isinstance(part, nn.SyncBatchNorm) for part in converted.modules()) == norms


@pytest.mark.parametrize("name", NORMS)
def test_statistics_are_estimated_anew_and_frozen_as_torch_s(name):
    module = make(name)
    batches = [tuple(t.detach() for t in inputs(name, seed)) for seed in range(3)]

    class Model(nn.Module):
        def __init__(self, module, function):
            super().__init__()
            self.module, self.function = module, function

        def forward(self, batch):
            return self.function(self.module, *batch)

    def estimated(function):
        model = Model(make(name), function)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.optim.swa_utils.update_bn([[batch] for batch in batches], model)
        return dict(model.module.named_buffers())

    ours, torchs = estimated(lambda m, *args: m(*args)), estimated(written)
    assert ours
    for key, buffer in ours.items():
        assert_equal(buffer, torchs[key])

    for part in module.train().modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()
    before = copy.deepcopy(dict(module.named_buffers()))
    module(*inputs(name))
    for key, buffer in module.named_buffers():
        iterates = key.endswith((".u", ".v", ".sigma"))  # of spectral norm, which is not frozen
        assert torch.equal(buffer, before[key]) != iterates


@pytest.mark.parametrize("options", [{"momentum": None}, {"momentum": 0.3}, {"affine": False}, {"eps": 0.1},
                                     {"track_running_stats": False}, {"momentum": 0.0}])  # fmt: skip
@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu", "silu"])
def test_activated_batch_norm_is_torch_s_batch_norm_and_activation(options, activation):
    module = ActivatedBatchNorm(4, activation, **options).double()
    activations = {"none": nn.Identity(), "relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(0.2), "silu": nn.SiLU()}
    plain = nn.Sequential(nn.BatchNorm2d(4, **options), activations[activation]).double()
    for p in (*module.parameters(), *plain.parameters()):
        nn.init.constant_(p, 0.7)
    for seed in range(3):
        torch.manual_seed(seed)
        x = torch.randn(3, 4, 5, 2).double()
        assert_equal(module(x), plain(x))
    assert_equal(module.eval()(x), plain.eval()(x))
    for key, buffer in plain[0].named_buffers():
        assert_equal(module.norm.get_buffer(key), buffer)


@pytest.mark.parametrize("weight", [0.1, 0.01, 1e-5])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_small_weights_of_a_batch_norm_keep_their_digits(weight, dtype):
    module = ActivatedBatchNorm(4, "none").to(dtype).eval()
    nn.init.constant_(module.norm.weight, weight)
    x = torch.randn(3, 4, 5, 2).to(dtype)
    exact = x.double() * module.norm.weight.double()[:, None, None] / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(module(x).double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-7)


def test_fusing_a_convolution_with_a_batch_norm_takes_the_norm_itself():
    conv, module = nn.Conv2d(3, 4, 3).eval(), ActivatedBatchNorm(4, "relu").eval()
    with pytest.raises(AttributeError, match="eps"):
        nn.utils.fuse_conv_bn_eval(conv, module)
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(nn.utils.fuse_conv_bn_eval(conv, module.norm)(x).relu(), module(conv(x)))


def test_a_norm_of_another_kind_in_its_place_is_what_normalizes():
    torch.manual_seed(0)
    x, cond, labels = torch.randn(4, 6, 4, 4), torch.randn(4, 5), torch.rand(4, 3, 4, 4)
    norms = [nn.GroupNorm(2, 6), nn.GroupNorm(3, 6, affine=False), nn.InstanceNorm2d(6, affine=True)]
    norms += [nn.InstanceNorm2d(6, track_running_stats=True), nn.BatchNorm2d(6), nn.Identity()]
    for norm in norms:
        for p in norm.parameters():
            nn.init.normal_(p)
        for layer, other in ((ConditionalNorm2d(6, 5), cond), (SPADE2d(6, 3), labels)):
            layer.normalize = copy.deepcopy(norm)
            again = copy.deepcopy(layer)
            for training in (True, False):
                y, expected = layer.train(training)(x, other), written(again.train(training), x, other)
                torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)

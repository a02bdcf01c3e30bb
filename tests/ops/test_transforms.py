"""The ops within what PyTorch builds on functions: traces, exported programs, vmap, many gradients at once."""

import io
import warnings

import pytest
import torch
from torch import nn

from t2ilayers.ops import affine_chain, masked_affine_norm


class Norm(nn.Module):
    """With running statistics, which training changes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))

    def forward(self, x, gamma, beta):
        mask = x[:, :1].sigmoid().repeat(1, 1, 2, 2)
        running = dict(running_mean=self.mean, running_var=self.var, training=self.training)
        return masked_affine_norm(x, gamma, beta, mask, upsample=2, activation="relu", **running)


class Chain(nn.Module):
    def forward(self, x, gamma, beta):
        return affine_chain(x, [gamma, gamma], [beta, beta], upsample=2)


OPS = pytest.mark.parametrize("kind", [Norm, Chain])


def inputs(n=3, seed=0):
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=random) for s in ((n, 4, 5, 3), (n, 4), (n, 4))]


@pytest.fixture(autouse=True)
def without_the_deprecations_of_torch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=DeprecationWarning)
        warnings.simplefilter("ignore", category=FutureWarning)
        warnings.simplefilter("ignore", category=torch.jit.TracerWarning)  # shapes are fixed in a trace
        yield


@OPS
@pytest.mark.parametrize("training", [False, True])
def test_a_trace_is_saved_loaded_and_made_of_ordinary_operations(kind, training):
    module, buffer = kind().train(training), io.BytesIO()
    traced = torch.jit.trace(module, inputs(), check_trace=False)
    assert "t2ilayers::" not in str(traced.graph)
    assert "PythonOp" not in str(traced.graph)
    torch.jit.save(traced, buffer)
    buffer.seek(0)
    loaded = torch.jit.load(buffer)
    loaded.load_state_dict(module.state_dict())
    for seed in (1, 2):
        torch.testing.assert_close(loaded(*inputs(seed=seed)), module(*inputs(seed=seed)))
    for ours, theirs in zip(loaded.buffers(), module.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


@OPS
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch 2.11, of what it reads itself
def test_an_exported_program_is_saved_and_takes_any_batch(kind, training):
    module, buffer = kind().train(training), io.BytesIO()
    batch = {0: torch.export.Dim("batch", min=2)}
    program = torch.export.export(module, tuple(inputs()), dynamic_shapes=(batch, batch, batch))
    assert all("t2ilayers" not in str(node.target) for node in program.graph.nodes)
    torch.export.save(program, buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()
    loaded.load_state_dict(module.state_dict())
    for n in (3, 5):
        torch.testing.assert_close(loaded(*inputs(n)), module(*inputs(n)))
    for ours, theirs in zip(loaded.buffers(), module.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


@OPS
def test_gradients_of_each_sample_alone(kind):
    module, tensors = kind().eval(), inputs()

    def loss(x, gamma, beta):
        return module(x[None], gamma[None], beta[None]).square().sum()

    many = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1, 2)))(*tensors)
    for i in range(len(tensors[0])):
        alone = [t[i].clone().requires_grad_() for t in tensors]
        for ours, theirs in zip(many, torch.autograd.grad(loss(*alone), alone), strict=True):
            torch.testing.assert_close(ours[i], theirs)


@OPS
def test_many_gradients_at_once(kind):
    module = kind()
    leaves = [t.requires_grad_() for t in inputs(2)]
    y = module(*leaves)
    dys = torch.randn(3, *y.shape, generator=torch.Generator().manual_seed(1))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")  # torch's own batch norm
        many = torch.autograd.grad(y, leaves, dys, is_grads_batched=True, retain_graph=True)
    for i, dy in enumerate(dys):
        for ours, theirs in zip(many, torch.autograd.grad(y, leaves, dy, retain_graph=True), strict=True):
            torch.testing.assert_close(ours[i], theirs)


@OPS
def test_another_default_device_changes_nothing(kind):
    expected = kind()(*inputs())
    module, tensors = kind(), inputs()
    with torch.device("meta"):
        torch.testing.assert_close(module(*tensors), expected)

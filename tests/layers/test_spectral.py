"""Spectrally normalized layers against torch's own hook, and with what torch offers around modules."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from t2ilayers.layers import SpectralConv2d, SpectralEmbedding, SpectralLinear

LAYERS = {
    "conv": (SpectralConv2d, nn.Conv2d, (6, 4, 3), lambda: torch.randn(2, 6, 5, 5)),
    "linear": (SpectralLinear, nn.Linear, (6, 4), lambda: torch.randn(2, 6)),
    "embedding": (SpectralEmbedding, nn.Embedding, (6, 4), lambda: torch.tensor([0, 5])),
}


def pair(name):
    """A layer of ours and the same of torch's with its hook, in float64."""
    torch.manual_seed(0)
    kind, plain, sizes, given = LAYERS[name]
    layer, x = kind(*sizes).double(), given()
    other = nn.utils.spectral_norm(plain(*sizes).double(), eps=1e-12)
    published = {"weight_orig": layer.weight, "weight_u": layer.u, "weight_v": layer.v}
    other.load_state_dict({key: published.get(key, getattr(layer, "bias", None)) for key in other.state_dict()})
    return layer, other, x.double() if x.is_floating_point() else x


@pytest.mark.filterwarnings("ignore:.*spectral_norm.* is deprecated")
@pytest.mark.parametrize("name", LAYERS)
def test_it_is_torch_s_hook_in_training_and_evaluation(name):
    layer, other, x = pair(name)
    for training in (True, True, False, True, False):
        y, expected = layer.train(training)(x), other.train(training)(x)
        torch.testing.assert_close(y, expected)
        dy = torch.randn_like(y)
        y.backward(dy)
        expected.backward(dy)
        torch.testing.assert_close(layer.weight.grad, other.weight_orig.grad)
        torch.testing.assert_close((layer.u, layer.v), (other.weight_u, other.weight_v))
        with torch.no_grad():
            for p in (*layer.parameters(), *other.parameters()):
                p.mul_(1.5)


@pytest.mark.parametrize("name", LAYERS)
def test_with_a_step_in_evaluation_mode_it_comes_nearer_to_the_singular_value_and_keeps_nothing(name):
    kind, _, sizes, given = LAYERS[name]
    torch.manual_seed(0)
    layer, x = kind(*sizes, step_in_eval=True).double(), given()
    x = x.double() if x.is_floating_point() else x
    for _ in range(100):
        layer(x)
    exact = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
    torch.testing.assert_close(layer.sigma, exact)
    torch.testing.assert_close(torch.linalg.matrix_norm(layer.normalized_weight().flatten(1), 2), exact / exact)
    before = copy.deepcopy(layer.state_dict())
    with torch.no_grad():
        layer.weight += 0.1 * torch.randn_like(layer.weight)
        weight = layer.weight.flatten(1)
        v = weight.T @ layer.u
        u = weight @ v
        sigma = u @ weight @ v / u.norm() / v.norm()
        torch.testing.assert_close(layer.eval().normalized_weight(), layer.weight / sigma)
    for key in ("u", "sigma"):
        assert torch.equal(layer.state_dict()[key], before[key])


@pytest.mark.parametrize("step_in_eval", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_copies_pickles_and_saved_states_are_the_same_layer(name, step_in_eval):
    kind, _, sizes, given = LAYERS[name]
    layer, x = kind(*sizes, step_in_eval=step_in_eval), given()
    layer(x)
    other = kind(*sizes, step_in_eval=step_in_eval)
    other.load_state_dict(layer.state_dict())
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    copies = (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(file, weights_only=False), other)
    expected = layer.eval()(x)
    for one in copies:
        assert torch.equal(one.eval()(x), expected)


@pytest.mark.parametrize("name", LAYERS)
def test_a_backward_after_another_forward_in_either_mode(name):
    layer, _, x = pair(name)
    y = layer.eval()(x)
    alone = torch.autograd.grad(y.sum(), layer.weight, retain_graph=True)
    layer.train()(x)
    y2 = layer(x)
    layer(x)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), layer.weight), alone)
    y2.sum().backward()


@pytest.mark.parametrize("name", LAYERS)
def test_under_autocast_the_iteration_stays_exact(name):
    layer, _, x = pair(name)
    layer = layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.eval().normalized_weight().dtype == torch.float32
        y = layer(x.float() if x.is_floating_point() else x)
    assert y.dtype == (torch.float32 if name == "embedding" else torch.bfloat16)

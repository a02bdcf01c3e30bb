"""DF-GAN of 2022 and of 2020 and RAT-GAN against the figures of the published modules and training loops."""

import copy

import pytest
import torch

from golden_family import assert_entry, counts, data, family, gauss, weights
from t2ilayers.interop import official
from t2ilayers.interop._registry import format_of
from t2ilayers.losses import hinge_discriminator_loss, matching_aware_gradient_penalty
from t2ilayers.models import DFBlock, DFGenerator, MatchingAwareDiscriminator, RATGenerator
from t2ilayers.training import MatchingAwareConfig, MatchingAwareStep

CASES = [("dfgan", "a"), ("dfgan", "b"), ("dfgan2020", "a"), ("ratgan", "a"), ("ratgan_flower", "a")]
WHOLE = [("dfgan", "a"), ("dfgan2020", "a"), ("ratgan", "a")]
STEPS = {"dfgan": ("rolled", "joint"), "dfgan2020": ("shifted", "two-step"), "ratgan": ("shifted", "two-step")}


class Case:
    """A generator and a discriminator with the rule's weights, in float64, and the figures for them."""

    def __init__(self, name, config):
        figures, metadata = family(name)
        self.name, self.sizes, self.tag = name, metadata["configs"][config], metadata["tag"]
        prefix = f"{config}/"
        self.figures = {key.removeprefix(prefix): v for key, v in figures.items() if key.startswith(prefix)}
        self.shapes = metadata["shapes"][config]
        states = {network: weights(shapes) for network, shapes in self.shapes.items()}
        form = {"affines": 3} if name == "ratgan_flower" else {}
        self.generator = official.load_generator({"model": states}, **form).double()
        self.discriminator = official.load_discriminator({"model": states}).double()
        for module, names in ((self.generator, ["netG"]), (self.discriminator, ["netD", "netC"])):
            # A copy in float64 of what the loaders keep in float32, which the rule's values are.
            exported = official.export(module)
            for network in names:
                for key, value in states.get(network, {}).items():
                    published = exported.get(key, exported.get(f"{network}.{key}"))
                    assert torch.equal(published, value) or not published.any()  # unused ones are zeros

    def inputs(self, iteration=""):
        n, side = self.sizes["batch"], self.sizes["imsize"]
        z = gauss(f"{self.tag}z{iteration}", (n, 100))
        cond = data(f"{self.tag}c{iteration}", (n, self.sizes["cond_dim"]), -1, 1)
        return z, cond, data(f"{self.tag}img{iteration}", (n, 3, side, side), -1, 1)

    def check(self, found, entry, **options):
        assert_entry(found, self.figures, entry, **options)

    def norms(self, module, value):
        """Of each published parameter, in published order; 0 for those that nothing uses."""
        networks = ["netG"] if module is self.generator else [n for n in ("netD", "netC") if n in self.shapes]
        exported = format_of(module).keys(module)
        parameters = dict(module.named_parameters())
        found = []
        for network in networks:
            for key in self.shapes[network]:
                if ".lstm." in key:  # again the one cell
                    continue
                ours = exported.get(key, exported.get(f"{network}.{key}"))
                found.append(value(parameters[ours], key) if ours in parameters else torch.zeros(()).double())
        return torch.stack(found)


def gradient_norm(parameter, key):
    return torch.zeros(()).double() if parameter.grad is None else parameter.grad.norm()


@pytest.mark.parametrize(("name", "config"), CASES)
def test_pictures_blocks_and_logits_are_the_published_ones(name, config):
    case = Case(name, config)
    z, cond, images = case.inputs()
    blocks = []
    for block in case.generator.blocks:
        block.register_forward_hook(lambda module, args, output: blocks.append(output))
    with torch.no_grad():
        fake = case.generator(z, cond).images
        features = case.discriminator.features(images)
        case.check(fake, "g.eval.image", limit=3072)
        for i, block in enumerate(blocks):
            case.check(block, f"g.block{i}", limit=192)
        case.check(features, "d.features")
        case.check(case.discriminator.match(features, cond), "d.logits")
        if "d.logits.fake" in case.figures:
            case.check(case.discriminator(fake, cond), "d.logits.fake")
        if isinstance(case.generator, RATGenerator):
            cell, steps = case.generator.condition, 2 * case.generator.affines * len(blocks)
            h, c = cell(z, cond, steps)
            assert steps == (28 if name == "ratgan" else 42)
            case.check(cell.noise2h(z), "g.lstm.h0", limit=256)
            case.check(cell.noise2c(z), "g.lstm.c0", limit=256)
            case.check(torch.stack([state.norm() for state in h]), "g.lstm.h.norms")
            case.check(torch.stack([state.norm() for state in c]), "g.lstm.c.norms")
            case.check(h[-1], "g.lstm.h_last", limit=256)


@pytest.mark.parametrize(("name", "config"), WHOLE)
def test_gradients_and_the_penalty_are_the_published_ones(name, config):
    case = Case(name, config)
    z, cond, images = case.inputs()
    z.requires_grad_()
    cond.requires_grad_()
    fake = case.generator.train()(z, cond).images
    case.check(fake, "g.train.image")
    (fake * data(f"{case.tag}w", fake.shape, -1, 1)).mean().backward()
    case.check(case.norms(case.generator, gradient_norm), "g.train.gradnorms")
    case.check(z.grad, "g.train.dz", limit=256)
    case.check(cond.grad, "g.train.dc", limit=256)

    cond = cond.detach()
    magp = matching_aware_gradient_penalty(case.discriminator, images, cond)
    case.check(magp.reshape(1), "d.magp")
    magp.backward()
    case.check(case.norms(case.discriminator, gradient_norm), "d.magp.gradnorms")

    case.discriminator.zero_grad()
    features = case.discriminator.features(images)
    rolled = name == "dfgan"
    wrong = (features.roll(-1, 0), cond) if rolled else (features[:-1], cond[1:])
    mismatched = case.discriminator.match(*wrong)
    case.check(mismatched, "d.logits.mismatched")
    loss = hinge_discriminator_loss(
        case.discriminator.match(features, cond), case.discriminator(fake.detach(), cond), mismatched
    )
    case.check(torch.stack(loss), "d.losses")
    loss.total.backward()
    case.check(case.norms(case.discriminator, gradient_norm), "d.hinge.gradnorms")


class GivenNoise(MatchingAwareStep):
    """The step with noise that the figures were made with."""

    def _noise(self, count, device):
        return self.noise


@pytest.mark.parametrize(("name", "config"), WHOLE)
def test_two_training_iterations_are_those_of_the_published_loop(name, config):
    case = Case(name, config)
    mismatched, penalty = STEPS[name]
    settings = MatchingAwareConfig(mismatched=mismatched, penalty=penalty, ema=0.0)
    step = GivenNoise(case.generator, case.discriminator, lambda batch: batch["sentence"], settings)
    start = {id(p): p.detach().clone() for m in (case.generator, case.discriminator) for p in m.parameters()}
    seen = {"g": [], "d": []}
    for player, optimizer, module in (
        ("g", step.g_optimizer, case.generator),
        ("d", step.d_optimizer, case.discriminator),
    ):
        optimizer.register_step_pre_hook(
            lambda *_, player=player, module=module: seen[player].append(case.norms(module, gradient_norm))
        )
    for iteration in (0, 1):
        step.noise, sentence, images = case.inputs(iteration or "")
        seen["g"].clear(), seen["d"].clear()
        n = len(images)
        batch = {"image": images, "sentence": sentence, "class_ids": torch.arange(n), "tokens": torch.ones(n, 1)}
        losses = step(batch, iteration)
        entry = f"step{iteration + 1}"
        tolerance = 1e-6 if iteration == 0 else 1e-5
        judged = [f"discriminator/{name}" for name in ("real", "fake", "mismatched")]
        names = (*judged, "penalty/matching_aware", "generator/adversarial")
        case.check(torch.stack([losses[key] for key in names]), f"{entry}.losses", tolerance=tolerance)
        for k, norms in enumerate(seen["d"]):
            case.check(norms, f"{entry}.d.gradnorms{k}.norms", tolerance=tolerance)
        assert len(seen["d"]) == (1 if penalty == "joint" else 2)
        case.check(seen["g"][0], f"{entry}.g.gradnorms", tolerance=tolerance)
        for player, module, rate in (("g", case.generator, 1e-4), ("d", case.discriminator, 4e-4)):

            def move(p, key, rate=rate):
                along = data(f"{case.tag}step:{key}", p.shape, -1, 1)
                return ((p.detach() - start[id(p)]) / rate * along).sum() / p.numel() ** 0.5

            case.check(case.norms(module, move), f"{entry}.{player}.move", tolerance=1e-5)
    with torch.no_grad():
        z, cond, _ = case.inputs()
        case.check(case.generator.eval()(z, cond).images, "step2.image", tolerance=1e-5)


@pytest.mark.parametrize("width", [32, 64])
def test_as_many_parameters_as_published(width):
    with torch.device("meta"):
        for name, version, most in (("dfgan", "2022", 8), ("dfgan2020", "2020", 16)):
            count = counts(name)[str(width)]
            generator = DFGenerator(256, width, version=version)
            discriminator = MatchingAwareDiscriminator(256, width, max_width=most)
            assert sum(p.numel() for p in generator.parameters()) == count["netG"]
            exported = official.export(discriminator)
            total = sum(value.numel() for value in exported.values())
            assert total == count["netD"] + count.get("netC", 0)
        for affines in (2, 3):
            exported = official.export(RATGenerator(256, width, affines=affines))
            assert len(exported) == 465
            once = [value.numel() for key, value in exported.items() if ".lstm." not in key]
            assert sum(once) == counts("ratgan")[str(width)]["netG"]


def test_a_discriminator_of_two_networks_is_read_in_any_form():
    model = MatchingAwareDiscriminator(32, ndf=2, cond_dim=10, max_width=8)
    exported = official.export(model)
    assert {key.split(".")[0] for key in exported} == {"netD", "netC"}
    parts = {
        name: {f"module.{key.removeprefix(name + '.')}": v for key, v in exported.items() if key.startswith(name)}
        for name in ("netD", "netC")
    }
    for loaded in (
        official.load_discriminator(exported),
        official.load_discriminator({"model": parts, "epoch": 3}),
        official.load_discriminator(parts["netD"], head=parts["netC"]),
    ):
        assert loaded.max_width == 8
        assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    with pytest.raises(ValueError, match="give its state dict as head"):
        official.load_discriminator(parts["netD"])


@pytest.mark.parametrize("version", ["2022", "2020"])
def test_a_generator_out_and_in_again(version):
    model = DFGenerator(32, ngf=2, z_dim=12, cond_dim=10, version=version)
    loaded = official.load_generator({"model": {"netG": official.export(model)}})
    assert (loaded.version, loaded.image_size, loaded.z_dim, loaded.cond_dim) == (version, 32, 12, 10)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("hooked", ["fuse1", "conv1"])
def test_a_block_that_convolves_before_it_upsamples_is_the_block_that_is_called_in_order(hooked):
    """From 16 px on, in training and with gradients; a hook leads to the order as it was published."""
    torch.manual_seed(0)
    block = DFBlock(6, 4, cond_dim=5).double()
    for p in block.parameters():
        torch.nn.init.normal_(p, std=0.3)
    called, shapes = copy.deepcopy(block), []
    part = called.get_submodule(hooked)
    part.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
    x, cond = torch.randn(2, 6, 16, 18).double(), torch.randn(2, 5).double()
    y, expected = block(x, cond), called(x, cond)
    assert shapes == [(2, 6 if hooked == "fuse1" else 4, 32, 36)]
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    for (name, p), right in zip(block.named_parameters(), called.parameters(), strict=True):
        torch.testing.assert_close(p.grad, right.grad, msg=lambda text, name=name: f"{name}: {text}")

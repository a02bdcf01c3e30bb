"""mimicry's GANs, BigGAN and SPADE: networks, blocks and layers against figures of the published modules."""

import copy

import pytest
import torch
from torch import nn

from golden_family import assert_entry, counts, data, family, given, weight
from t2ilayers.interop import official
from t2ilayers.interop._registry import format_of
from t2ilayers.losses import (
    feature_matching_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
    logistic_discriminator_loss,
    logistic_generator_loss,
    wasserstein_discriminator_loss,
)
from t2ilayers.models import (
    BigGANBlock,
    BigGANDeepBlock,
    BigGANDiscriminator,
    BigGANGenerator,
    GeneratorOutput,
    MultiscaleDiscriminator,
    ProjectionDiscriminator,
    ProjectionGenerator,
    SPADEGenerator,
)

MODELS = ("mimicry", "biggan", "spade")
ROLES = {
    "G": official.load_generator,
    "D": official.load_discriminator,
    "generator": official.load_generator,
    "discriminator": official.load_discriminator,
}
# What the keys of a block or a layer do not tell.
UNTOLD = {
    ("mimicry", "dblock.first"): {"first": True},
    ("mimicry", "dblock.plain"): {"downsample": False},
    ("mimicry", "snconv.own"): {"padding": 1},
    ("biggan", "ccbn.embed"): {"classes": True},
    ("biggan", "dblock.first"): {"first": True},
    ("biggan", "gblockdeep.flat"): {"upsample": False},
    ("spade", "generator"): {"image_size": 64},
    ("spade", "generator.vae"): {"image_size": 64, "upsampling": "more"},
}


def cases(models):
    return [(model, case) for model in models for case in family(model)[1]["cases"]]


class Case:
    """A module with the rule's weights, in float64, and the figures of the published one."""

    def __init__(self, model, case):
        figures, metadata = family(model)
        self.figures, self.name, self.facts = figures, case, metadata["cases"][case]
        state = {key: weight(self.facts["prefix"] + key, shape) for key, shape in self.facts["keys"].items()}
        if case == "ccbn.mybn":
            state = {key.removeprefix("bn."): value for key, value in state.items() if "counter" not in key}
        load = next((ROLES[word] for word in case.split(".") if word in ROLES), official.load_layer)
        self.module = load(state, **UNTOLD.get((model, case), {})).double()
        exported = official.export(self.module)
        assert exported.keys() == state.keys()
        assert all(torch.equal(value, state[key]) for key, value in exported.items())
        if case == "ccbn.in":  # instance norm with running statistics, as the published code calls it
            statistics, self.module.normalize = (
                self.module.normalize,
                nn.InstanceNorm2d(24, track_running_stats=True),
            )
            self.module.normalize.load_state_dict(statistics.state_dict())
        self.inputs = [given(rule) for rule in self.facts["inputs"]]

    def __call__(self):
        """The module's result for the inputs, in the published order."""
        inputs = self.inputs
        if isinstance(self.module, SPADEGenerator):
            inputs = (None, *inputs) if len(inputs) == 1 else inputs[::-1]
        elif isinstance(self.module, MultiscaleDiscriminator):
            inputs = (inputs[0][:, -3:], inputs[0][:, :-3])
        result = self.module(*inputs)
        return result.images if isinstance(result, GeneratorOutput) else result

    def published(self, entries):
        """Entries of ours under the published keys."""
        names = format_of(self.module).keys(self.module)
        found = {key: entries[ours] for key, ours in names.items() if ours in entries}
        return format_of(self.module).write(found)

    def check(self, found, entry, **options):
        assert_entry(found, self.figures, f"{self.name}.{entry}", **{"limit": self.facts["limit"], **options})

    def check_norms(self, entries, keys, entry):
        self.check(torch.stack([entries[key].double().norm() for key in keys]), entry)


def flat(result):
    """All numbers of a result, those of several scales and their maps one after the other."""
    if isinstance(result, torch.Tensor):
        return result.flatten()
    return torch.cat([map.flatten() for output in result for map in (*output.features, output.logits)])


@pytest.mark.parametrize(("model", "case"), cases(MODELS))
def test_a_module_has_the_figures_of_the_published_one(model, case):
    case = Case(model, case)
    case.module.train()
    y = flat(case())
    case.check(y, "y")
    (y * data(f"openw:{case.name}", (y.numel(),), -1, 1)).sum().backward()
    gradients = {
        key: torch.zeros_like(p) if p.grad is None else p.grad for key, p in case.module.named_parameters()
    }
    case.check_norms(case.published(gradients), case.facts["params"], "gradnorms")
    for i, x in enumerate(x for x in case.inputs if x.requires_grad):
        case.check(x.grad, f"d{i}")
    buffers = case.published(dict(case.module.named_buffers()))
    if case.name == "ccbn.mybn":
        check_my_batch_norm(case, buffers)
    elif buffers:
        case.check_norms(buffers, case.facts["buffers"], "buffers.norms")
    case.module.eval()
    with torch.no_grad():
        case.check(flat(case()), "eval")


def check_my_batch_norm(case, buffers):
    """BigGAN's own batch norm keeps the biased variance; ours, as torch's, the one without bias."""
    count = case.inputs[0].numel() / case.inputs[0].shape[1]
    before = weight("bn.stored_var", [24])
    fresh = (buffers["stored_var"] - 0.9 * before) * (count - 1) / count
    case.module.normalize.running_var.copy_(0.9 * before + fresh)
    norms = torch.stack([buffers["stored_mean"].norm(), case.module.normalize.running_var.norm()])
    case.check(norms, "buffers.norms")


@pytest.mark.parametrize("case", [case for _, case in cases(["mimicry"]) if case.endswith(".D")])
def test_losses_of_logits_are_the_published_ones(case):
    case = Case("mimicry", case)
    case.module.train()
    fake, real = case().detach().chunk(2)
    found = [
        hinge_discriminator_loss(real, fake).total, hinge_generator_loss(fake),
        wasserstein_discriminator_loss(real, fake).total, hinge_generator_loss(fake),
        logistic_discriminator_loss(real, fake).total, *[logistic_generator_loss(fake)] * 2,
    ]  # fmt: skip
    case.check(torch.stack(found), "all_losses")


@pytest.mark.parametrize("case", [case for _, case in cases(["biggan"]) if case.startswith("discriminator")])
def test_losses_of_logits_are_those_of_biggan(case):
    case = Case("biggan", case)
    case.module.train()
    fake, real = case().detach().chunk(2)
    case.check(
        torch.stack([*hinge_discriminator_loss(real, fake)[:2], hinge_generator_loss(fake)]), "hinge_losses"
    )
    logistic = [*logistic_discriminator_loss(real, fake), logistic_generator_loss(fake)]
    case.check(torch.stack(logistic), "dcgan_losses")


def test_losses_of_patches_are_the_published_ones():
    case = Case("spade", "discriminator")
    case.module.train()
    outputs = case()
    halves = [[t.chunk(2) for t in (output.logits, *output.features)] for output in outputs]
    hinge = [hinge_discriminator_loss(logits[1], logits[0]) for logits, *_ in halves]
    scales = len(halves)
    maps = [[[map[half] for map in features] for _, *features in halves] for half in (1, 0)]
    found = [
        sum(loss.fake for loss in hinge) / scales,
        sum(loss.real for loss in hinge) / scales,
        sum(hinge_generator_loss(logits[0]) for logits, *_ in halves) / scales,
        10 * feature_matching_loss(*maps),
    ]
    case.check(torch.stack(found), "hinge_losses")


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "classes", "widths", "sagan"),
    [
        ("cgan_pd_32", 10, (256, 128), False),
        ("cgan_pd_128", 1000, (1024, 1024), False),
        ("sngan_32", 0, (256, 128), False),
        ("sngan_128", 0, (1024, 1024), False),
        ("sagan_32", 10, (256, 128), True),
        ("sagan_128", 1000, (1024, 128), True),
    ],
)
def test_mimicry_s_networks_have_as_many_parameters_as_published(name, classes, widths, sagan):
    size = int(name.rpartition("_")[2])
    sides = {32: ((16,), (8,)), 128: ((32,), (32,))}[size] if sagan else ((), ())
    with torch.device("meta"):
        generator = ProjectionGenerator(
            size, widths[0], num_classes=classes, attention=sides[0], spectral_norm=sagan
        )
        discriminator = ProjectionDiscriminator(size, widths[1], classes, attention=sides[1])
    published = counts("mimicry")
    assert (count(generator), count(discriminator)) == (published[f"{name}.G"], published[f"{name}.D"])


@pytest.mark.parametrize("size", [32, 48, 64, 128])
def test_mimicry_s_sizes_fit_together_and_come_back_from_their_published_keys(size):
    classes = torch.tensor([0, 2])
    generator, discriminator = ProjectionGenerator(size, 16, 6, 3), ProjectionDiscriminator(size, 16, 3)
    images = generator(torch.randn(2, 6), classes).images
    assert images.shape == (2, 3, size, size)
    assert discriminator(images, classes).shape == (2,)
    for module, load in ((generator, official.load_generator), (discriminator, official.load_discriminator)):
        again = load(official.export(module))
        assert (type(again), again.image_size) == (type(module), size)
        for key, value in module.state_dict().items():
            assert torch.equal(again.state_dict()[key], value), key


@pytest.mark.parametrize("size", [32, 64, 128, 256, 512])
def test_biggan_s_sizes_fit_together_and_come_back_from_their_published_keys(size):
    sides = (16,) if size == 32 else (32, 64)[: 1 + (size > 64)]
    parts = size.bit_length() - 2
    classes = torch.tensor([0, 2])
    generator = BigGANGenerator(size, 8 if size == 512 else 4, 2 * parts, 3, shared_dim=4, attention=sides)
    discriminator = BigGANDiscriminator(size, 8, 3, attention=sides)
    images = generator(torch.randn(2, 2 * parts), classes).images
    assert images.shape == (2, 3, size, size)
    assert discriminator(images, classes).shape == (2,)
    for module, load in ((generator, official.load_generator), (discriminator, official.load_discriminator)):
        again = load(official.export(module))
        assert (type(again), again.image_size, again.attention) == (type(module), size, sides)
        for key, value in module.state_dict().items():
            assert key.endswith("num_batches_tracked") or torch.equal(again.state_dict()[key], value), key


def test_biggan_draws_between_classes():
    generator = BigGANGenerator(32, 4, 8, 3, shared_dim=4, attention=()).eval()
    z, rows = torch.randn(2, 8), generator.classes.weight
    assert torch.equal(generator(z, rows[[0, 2]]).images, generator(z, torch.tensor([0, 2])).images)
    assert generator(z, rows[:2] / 2 + rows[1:] / 2).images.shape == (2, 3, 32, 32)


@pytest.mark.parametrize("kind", [BigGANBlock, BigGANDeepBlock])
@pytest.mark.parametrize("hooked", ["norm", "conv"])
def test_biggan_s_block_that_convolves_before_it_upsamples_is_the_one_that_is_called_in_order(kind, hooked):
    torch.manual_seed(0)
    block = kind(8, 4, cond_dim=5).double()
    called, shapes = copy.deepcopy(block), []
    part = called.get_submodule(f"{hooked}{2 if kind is BigGANDeepBlock else 1}")
    part.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape[2:])))
    x, cond = torch.randn(2, 8, 16, 18).double(), torch.randn(2, 5).double()
    y, expected = block(x, cond), called(x, cond)
    assert shapes == [(32, 36)]
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    for (name, p), right in zip(block.named_parameters(), called.parameters(), strict=True):
        torch.testing.assert_close(p.grad, right.grad, msg=lambda text, name=name: f"{name}: {text}")
    for (name, value), right in zip(block.named_buffers(), called.buffers(), strict=True):
        torch.testing.assert_close(value, right, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(block.eval()(x, cond), called.eval()(x, cond))


@pytest.mark.parametrize(("size", "z_dim", "width"), [(128, 120, 96), (256, 140, 96), (128, 126, 64)])
def test_biggan_has_as_many_parameters_as_published(size, z_dim, width):
    with torch.device("meta"):
        generator, discriminator = BigGANGenerator(size, width, z_dim), BigGANDiscriminator(size, width)
    published = counts("biggan")
    assert count(generator) == published[f"G{size}ch{width}"]
    assert count(discriminator) == published[f"D{size}ch{width}"]


@pytest.mark.parametrize(("data_set", "labels"), [("coco", 184), ("ade20k", 151), ("cityscapes", 36)])
def test_spade_has_as_many_parameters_as_published(data_set, labels):
    with torch.device("meta"):
        assert count(SPADEGenerator(256, labels)) == counts("spade")[data_set]
        assert count(MultiscaleDiscriminator()) == counts("spade")["coco_D"]


@pytest.mark.parametrize(
    ("upsampling", "z_dim", "size"), [("normal", 0, (32, 64)), ("more", 6, 64), ("most", 0, 128)]
)
def test_spade_s_forms_come_back_from_their_published_keys(upsampling, z_dim, size):
    generator = SPADEGenerator(size, 3, 2, z_dim, upsampling=upsampling)
    height, width = generator.image_size
    labels = torch.rand(2, 3, height, width)
    images = generator(torch.randn(2, z_dim) if z_dim else None, labels).images
    assert images.shape == (2, 3, height, width)
    again = official.load_generator(official.export(generator), image_size=size, upsampling=upsampling)
    for key, value in generator.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_spade_s_discriminator_comes_back_from_its_published_keys():
    discriminator = MultiscaleDiscriminator(3, 2, scales=3, stages=3)
    outputs = discriminator(torch.zeros(2, 3, 32, 32), torch.zeros(2, 3, 32, 32))
    assert [len(output.features) for output in outputs] == [3, 3, 3]
    again = official.load_discriminator(official.export(discriminator))
    for key, value in discriminator.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ProjectionGenerator(96), "image_size must be one of .32, 48, 64, 128., got 96"),
        (lambda: ProjectionGenerator(64, ngf=24), "ngf must be a multiple of 16 at 64 px, got 24"),
        (lambda: ProjectionDiscriminator(64, ndf=24), "ndf must be a multiple of 16 at 64 px, got 24"),
        (lambda: ProjectionGenerator(32, ngf=16, attention=(64,)), "attention must be sides of maps, .8, 16, 32."),
        (lambda: ProjectionGenerator(32, 16, 6)(torch.randn(2, 6)), r"cond \(N,\), got \(2, 6\) and None"),
        (
            lambda: ProjectionGenerator(32, 16, 6, 0)(torch.randn(2, 6), torch.zeros(2)),
            "None, there are no classes",
        ),
        (
            lambda: ProjectionDiscriminator(32, 16).features(torch.zeros(2, 3, 64, 64)),
            r"images must be \(N, 3, 32, 32\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()

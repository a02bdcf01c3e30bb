"""cGAN-PD, SNGAN, SAGAN: networks, blocks and layers against the figures of the published modules."""

import pytest
import torch

from golden_family import assert_entry, counts, data, family, given, weight
from t2ilayers._weights import fill
from t2ilayers.interop import _mimicry
from t2ilayers.losses import (
    hinge_discriminator_loss,
    hinge_generator_loss,
    logistic_discriminator_loss,
    logistic_generator_loss,
    wasserstein_discriminator_loss,
)
from t2ilayers.models import ProjectionDiscriminator, ProjectionGenerator

FORMATS = {"mimicry": _mimicry.FORMATS}
# What the keys of a block or a layer do not tell.
UNTOLD = {
    ("mimicry", "dblock.first"): {"first": True},
    ("mimicry", "dblock.plain"): {"downsample": False},
    ("mimicry", "snconv.own"): {"padding": 1},
}


def cases(models):
    return [(model, case) for model in models for case in family(model)[1]["cases"]]


class Case:
    """A module with the rule's weights, in float64, and the figures of the published one."""

    def __init__(self, model, case):
        figures, metadata = family(model)
        self.figures, self.name, self.facts = figures, case, metadata["cases"][case]
        state = {key: weight(self.facts["prefix"] + key, shape) for key, shape in self.facts["keys"].items()}
        known = [entry for entry in FORMATS[model] if entry.knows(state)]
        roles = {"G": "generator", "D": "discriminator"}
        self.format = next(e for e in known if e.role == roles.get(case.rpartition(".")[2], "layer"))
        with torch.device("meta"):
            module = self.format.build(state, **UNTOLD.get((model, case), {}))
        names = self.format.keys(module)
        self.module = fill(module, self.format.read(state), names=names).double()
        exported = self.format.export(module)
        assert {key: tuple(value.shape) for key, value in exported.items()} == {
            key: tuple(shape) for key, shape in self.facts["keys"].items()
        }
        assert all(torch.equal(value, state[key]) for key, value in exported.items())
        self.inputs = [given(rule) for rule in self.facts["inputs"]]

    def __call__(self):
        result = self.module(*self.inputs)
        return result.images if isinstance(result, tuple) else result

    def published(self, entries):
        """Entries of ours under the published keys."""
        names = self.format.keys(self.module)
        return self.format.write({key: entries[ours] for key, ours in names.items() if ours in entries})

    def check(self, found, entry, **options):
        assert_entry(found, self.figures, f"{self.name}.{entry}", **{"limit": self.facts["limit"], **options})

    def check_norms(self, entries, keys, entry):
        self.check(torch.stack([entries[key].double().norm() for key in keys]), entry)


@pytest.mark.parametrize(("model", "case"), cases(FORMATS))
def test_a_module_has_the_figures_of_the_published_one(model, case):
    case = Case(model, case)
    case.module.train()
    y = case()
    case.check(y, "y")
    (y.flatten() * data(f"openw:{case.name}", (y.numel(),), -1, 1)).sum().backward()
    gradients = {
        key: torch.zeros_like(p) if p.grad is None else p.grad for key, p in case.module.named_parameters()
    }
    case.check_norms(case.published(gradients), case.facts["params"], "gradnorms")
    for i, x in enumerate(x for x in case.inputs if x.requires_grad):
        case.check(x.grad, f"d{i}")
    if case.facts["buffers"]:
        case.check_norms(case.published(dict(case.module.named_buffers())), case.facts["buffers"], "buffers.norms")
    case.module.eval()
    with torch.no_grad():
        case.check(case(), "eval")


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
    for module in (generator, discriminator):
        entry = next(e for e in _mimicry.FORMATS if isinstance(module, e.kind))
        state = entry.export(module)
        assert next(e for e in _mimicry.FORMATS if e.knows(state) and e.role == entry.role) is entry
        with torch.device("meta"):
            again = entry.build(state)
        assert again.image_size == size
        again = fill(again, entry.read(state), names=entry.keys(again))
        for key, value in module.state_dict().items():
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

"""The discriminator on frozen features: what is trained and saved, its gradients, and one training step."""

import copy

import pytest
import torch
from torch import nn

from t2ilayers import SSAGenerator
from t2ilayers.data import BatchDataset, CaptionedShapes
from t2ilayers.encoders import EfficientNetLite0
from t2ilayers.losses import matching_aware_gradient_penalty
from t2ilayers.models import FeatureDiscriminator
from t2ilayers.training import MatchingAwareConfig, MatchingAwareStep


class Trunk(nn.Module):
    """Three maps: one that halves to 4x4, one that is smaller, one of odd sides."""

    def __init__(self):
        super().__init__()
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(3, 5, 3, 2, 1), nn.Conv2d(5, 6, 3, 8, 1), nn.Conv2d(5, 7, 3, 3)]
        )
        self.norm = nn.BatchNorm2d(5)
        self.drop = nn.Dropout(0.5)

    def forward(self, images):
        first = self.drop(self.norm(self.convolutions[0](images)).tanh())
        return [first, self.convolutions[1](first).tanh(), self.convolutions[2](first).tanh()]


def make(**changes):
    torch.manual_seed(0)
    return FeatureDiscriminator(Trunk(), 6, **({"image_size": 32, "width": 4} | changes))


def data(n=3, **kwargs):
    random = torch.Generator().manual_seed(1)
    images, cond = torch.rand(n, 3, 32, 32, generator=random) * 2 - 1, torch.randn(n, 6, generator=random)
    return images.to(**kwargs), cond.to(**kwargs)


def test_the_logit_is_the_mean_of_the_heads():
    model, (images, cond) = make(), data()
    features = model.features(images)
    assert features.shape == (3, 12, 4, 4)
    logits = [
        head(neck(one), cond)
        for head, neck, one in zip(model.heads, model.necks, model.trunk(images), strict=True)
    ]
    torch.testing.assert_close(model(images, cond), sum(logits) / 3)
    torch.testing.assert_close(model.match(features, cond), model(images, cond))
    assert not torch.equal(model(images, cond), model(images, cond.roll(1, 0)))


def test_the_trunk_stays_as_it_is():
    model, (images, cond) = make(), data()
    before = copy.deepcopy(model.trunk.state_dict())
    model.train()
    assert not any(module.training for module in model.trunk.modules())
    assert torch.equal(model(images, cond), model(images, cond))  # no dropout
    optimizer = torch.optim.Adam(model.parameters())
    model(images.requires_grad_(), cond).sum().backward()
    optimizer.step()
    assert images.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.trunk.parameters())
    assert all(p.grad is not None for name, p in model.named_parameters() if "residual" not in name)
    for key, value in model.trunk.state_dict().items():
        assert torch.equal(value, before[key])


def test_neither_parameters_nor_the_state_dict_have_the_trunk():
    model, (images, cond) = make(), data()
    assert not {id(p) for p in model.parameters()} & {id(p) for p in model.trunk.parameters()}
    assert {key.split(".")[0] for key in model.state_dict()} == {"necks", "heads"}
    torch.manual_seed(5)
    other = FeatureDiscriminator(copy.deepcopy(model.trunk), 6, image_size=32, width=4)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(images, cond), model(images, cond))


def test_it_follows_its_module():
    model, (images, cond) = make().double(), data(dtype=torch.float64)
    assert model(images, cond).dtype == torch.float64
    assert {p.dtype for p in model.trunk.parameters()} == {torch.float64}
    twin = copy.deepcopy(model)
    assert twin.trunk is not model.trunk
    assert torch.equal(twin(images, cond), model(images, cond))


def test_second_derivatives_are_those_of_finite_differences():
    """Of the penalty by heads' weights, through the trunk."""
    model, (images, cond) = make(projection=True).double(), data(2, dtype=torch.float64)
    for block in (module for module in model.modules() if hasattr(module, "gamma")):
        nn.init.ones_(block.gamma)

    def penalty():
        return matching_aware_gradient_penalty(model, images, cond, weight=1e-3, power=2)

    # Leaky ReLU has kinks, but no second derivative elsewhere: small steps stay on one side.
    penalty().backward()
    generator = torch.Generator().manual_seed(2)
    for name, p in model.named_parameters():
        if p.grad is None:  # a bias has no effect on a slope, except through kinks
            continue
        direction = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            p += 1e-6 * direction
            after = penalty()
            p -= 2e-6 * direction
            before = penalty()
            p += 1e-6 * direction
        slope = ((after - before) / 2e-6).item()
        assert (p.grad * direction).sum().item() == pytest.approx(slope, rel=1e-4, abs=1e-8), name


@pytest.mark.parametrize(
    "settings", [{}, {"penalty": "two-step"}, {"contrast_weight": 1.0}, {"precision": "bf16"}], ids=str
)
def test_it_goes_through_the_training_step(settings):
    torch.manual_seed(0)
    batch = BatchDataset(CaptionedShapes(64, image_size=32), 6, seed=0)[0]
    model = FeatureDiscriminator(EfficientNetLite0(), 16, image_size=32, width=4, projection=True)
    trunk = copy.deepcopy(model.trunk.state_dict())
    classes = torch.randn(64, 16)
    step = MatchingAwareStep(
        SSAGenerator(32, ngf=2, cond_dim=16, mask_channels=4),
        model,
        lambda batch: classes[batch["class_ids"] % 64],
        MatchingAwareConfig(**settings),
    )
    before = copy.deepcopy(step.state_dict()["discriminator"])
    losses = step(batch, 0)
    assert all(value.isfinite() for value in losses.values())
    assert losses["penalty/matching_aware"] > 0
    assert any(not torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(value, trunk[key]) for key, value in model.trunk.state_dict().items())
    assert not any(p.requires_grad for p in model.trunk.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"trunk must return a list of maps \(N, C, h, w\), got Tensor"):
        FeatureDiscriminator(nn.Conv2d(3, 4, 3), 6)
    images, cond = data()
    with pytest.raises(ValueError, match=r"images must be \(N, 3, 32, 32\), got \(3, 3, 16, 16\)"):
        make()(images[..., :16, :16], cond)
    with pytest.raises(ValueError, match="got one without; pass projection=True"):
        make().code(torch.zeros(1, 12, 4, 4))

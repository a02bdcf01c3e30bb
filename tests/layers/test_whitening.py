"""Filters that start as a whitening of patches: what they answer, what is left alone, what is refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from t2ilayers import MatchingAwareDiscriminator
from t2ilayers.layers import SpectralConv2d, whiten


def smooth_pictures(count=64, side=16):
    """Neighbouring pixels are alike, and the mean is not 0."""
    torch.manual_seed(0)
    blobs = F.interpolate(torch.randn(count, 3, 5, 5), (side, side), mode="bicubic")
    return blobs + 0.2 * torch.randn(count, 3, side, side) + 0.3


@pytest.mark.parametrize(
    "options",
    [
        dict(kernel_size=3, padding=1),
        dict(kernel_size=4, stride=2),
        dict(kernel_size=(2, 3), dilation=2, bias=False),
        dict(kernel_size=1),
    ],
    ids=str,
)
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("channels", [7, 64])
def test_answers_are_uncorrelated_and_have_one_variance(options, pairs, channels):
    images = smooth_pictures()
    convolution = nn.Conv2d(3, channels, **options)
    before = convolution.weight.detach().clone()
    whiten(convolution, images, pairs=pairs, epsilon=1e-6)
    sides = convolution.kernel_size
    values = 3 * sides[0] * sides[1]
    count = min(channels // 2 if pairs else channels, values)
    weight = convolution.weight.detach().double()
    bias = None if convolution.bias is None else convolution.bias.detach().double()
    answers = F.conv2d(images.double(), weight, bias, stride=convolution.stride, dilation=convolution.dilation)
    answers = answers.transpose(0, 1).flatten(1)
    if bias is not None:
        assert answers[:count].mean(1).abs().max() < 1e-4
    covariance = torch.cov(answers[:count], correction=0)
    torch.testing.assert_close(covariance, torch.eye(count, dtype=torch.float64), rtol=0, atol=2e-3)
    if pairs:
        torch.testing.assert_close(weight[count : 2 * count], -weight[:count])
        count *= 2
    assert torch.equal(convolution.weight[count:], before[count:])


def test_the_largest_directions_come_first():
    """The first filter of smooth pictures sums its patch: it sees brightness or a colour, and no edge."""
    convolution = nn.Conv2d(3, 27, 3)
    whiten(convolution, smooth_pictures())
    within = convolution.weight.detach().flatten(2)
    steady = within.mean(2).norm(dim=1) / within.pow(2).mean(2).sum(1).sqrt()
    assert steady[0] > 0.9
    assert steady[-1] < 0.5
    lengths = within.flatten(1).norm(dim=1)
    assert (lengths.diff() > -1e-4).all()  # what varies less is told louder


def test_the_rest_of_a_network_stays():
    discriminator = MatchingAwareDiscriminator(16, ndf=4)
    before = {name: value.clone() for name, value in discriminator.state_dict().items()}
    whiten(discriminator.from_image, smooth_pictures())
    changed = {n for n, value in discriminator.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == {"from_image.weight", "from_image.bias"}


def hooked():
    convolution = nn.Conv2d(3, 8, 3)
    nn.utils.weight_norm(convolution)
    return convolution


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    "make",
    [
        hooked,
        lambda: nn.utils.spectral_norm(nn.Conv2d(3, 8, 3)),
        lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 8, 3)),
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)),
        lambda: SpectralConv2d(3, 8, 3),
    ],
)
def test_a_weight_that_is_computed_on_every_pass_is_refused(make):
    convolution = make()
    before = {name: value.clone() for name, value in convolution.state_dict().items()}
    with pytest.raises(ValueError, match=r"used as it is, got \w+, which computes it on every pass; whiten first"):
        whiten(convolution, smooth_pictures())
    assert all(torch.equal(value, before[name]) for name, value in convolution.state_dict().items())


@pytest.mark.parametrize(
    ("options", "shape", "epsilon", "message"),
    [
        ({}, (4, 3, 16, 16), 0.0, r"epsilon must be above 0, got 0\.0"),
        ({}, (4, 3, 16, 16), float("nan"), "epsilon must be above 0, got nan"),
        ({"groups": 3}, (4, 3, 16, 16), 0.1, "one group, got 3"),
        ({}, (4, 1, 16, 16), 0.1, r"images must be \(N, 3, H, W\).*got \(4, 1, 16, 16\)"),
        ({}, (3, 16, 16), 0.1, r"got \(3, 16, 16\)"),
        ({}, (0, 3, 16, 16), 0.1, "at least one"),
        ({"dilation": 2}, (4, 3, 16, 4), 0.1, "at least one of 5 by 5 pixels"),
    ],
)
def test_a_mistake_says_the_rule(options, shape, epsilon, message):
    with pytest.raises(ValueError, match=message):
        whiten(nn.Conv2d(3, 9, 3, **options), torch.zeros(shape), epsilon=epsilon)


def test_pictures_that_do_not_vary_leave_finite_filters():
    convolution = nn.Conv2d(3, 30, 3)
    whiten(convolution, torch.full((2, 3, 8, 8), 0.25))
    assert all(torch.isfinite(value).all() for value in convolution.state_dict().values())

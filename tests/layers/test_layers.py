"""Layers against the paper's order of operations, written out with torch's own modules."""

import pytest
import torch
import torch.nn.functional as F

from t2ilayers import MaskPredictor, SemanticAffineBN, SSAConv
from t2ilayers.layers import DownBlock, MatchingHead
from t2ilayers.ops import masked_affine_norm


def randomize(module, seed=0):
    """Leave the initial state, in which residuals and affine parameters are zero."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=random) * 0.2)
    return module.double()


def paper_sabn(norm, x, cond, mask):
    xhat = F.batch_norm(x, None, None, training=True)
    gamma, beta = norm.gamma(cond)[:, :, None, None], norm.beta(cond)[:, :, None, None]
    return F.relu((1 + gamma * mask) * xhat + beta * mask)


@pytest.mark.parametrize(("c_in", "c_out", "upsample"), [(6, 6, True), (6, 4, True), (6, 4, False)])
def test_ssa_conv_is_the_published_block(c_in, c_out, upsample):
    block = randomize(SSAConv(c_in, c_out, cond_dim=8, upsample=upsample, mask_channels=5))
    x, cond = torch.randn(3, c_in, 4, 4).double(), torch.randn(3, 8).double()
    y, mask = block(x, cond)

    logits = block.mask_predictor(x)
    big = x
    if upsample:  # published: upsample everything first, bilinear logits, nearest features
        logits = F.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=True)
        big = F.interpolate(x, scale_factor=2, mode="nearest")
    torch.testing.assert_close(mask, torch.sigmoid(logits))
    residual = block.conv1(paper_sabn(block.norm1, big, cond, mask))
    residual = block.conv2(paper_sabn(block.norm2, residual, cond, mask))
    torch.testing.assert_close(y, block.shortcut(big) + block.gamma * residual)
    before = x.clone()
    with torch.no_grad():  # adds in place, in another way
        torch.testing.assert_close(block(x, cond)[0], y)
    torch.testing.assert_close(x, before, rtol=0, atol=0)


def test_ssa_conv_takes_a_mask_from_outside_and_returns_it():
    block = randomize(SSAConv(4, 4, cond_dim=8))
    x, cond = torch.randn(2, 4, 4, 4).double(), torch.randn(2, 8).double()
    nowhere = torch.zeros(2, 1, 8, 8).double()
    y, mask = block(x, cond, nowhere)
    assert mask is nowhere
    other, _ = block(x, torch.randn(2, 8).double(), nowhere)
    torch.testing.assert_close(y, other)  # where the mask is zero the text does nothing
    with pytest.raises(ValueError, match=r"mask must be .* = \(2, 1, 8, 8\)"):
        block(x, cond, torch.zeros(2, 1, 4, 4).double())


def test_a_new_block_is_its_shortcut():
    block = SSAConv(4, 4)
    x = torch.randn(2, 4, 4, 4)
    y, _ = block(x, torch.randn(2, 256))
    torch.testing.assert_close(y, F.interpolate(x, scale_factor=2))


def test_semantic_affine_bn_is_the_module_twin_of_the_op():
    norm = randomize(SemanticAffineBN(5, cond_dim=8, hidden_dim=7, activation="leaky_relu", momentum=0.3))
    x, cond = torch.randn(3, 5, 4, 4).double(), torch.randn(3, 8).double()
    mask = torch.rand(3, 1, 8, 8).double()
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    options = dict(activation="leaky_relu", upsample=2, running_mean=mean, running_var=var, momentum=0.3)
    for training in (True, False):
        y = norm.train(training)(x, cond, mask, upsample=2)
        expected = masked_affine_norm(x, norm.gamma(cond), norm.beta(cond), mask, training=training, **options)
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(norm.running_mean, mean)
        torch.testing.assert_close(norm.running_var, var)


def test_a_new_semantic_affine_bn_is_plain_batch_norm():
    x = torch.randn(4, 5, 3, 3)
    y = SemanticAffineBN(5)(x, torch.randn(4, 256), torch.rand(4, 1, 3, 3))
    torch.testing.assert_close(y, F.batch_norm(x, None, None, training=True))


def test_down_block_is_the_published_block():
    block = randomize(DownBlock(4, 6))
    x = torch.randn(2, 4, 8, 8).double()
    residual = F.leaky_relu(F.conv2d(x, block.residual[0].weight, stride=2, padding=1), 0.2)
    residual = F.leaky_relu(F.conv2d(residual, block.residual[2].weight, padding=1), 0.2)
    shortcut = F.avg_pool2d(block.shortcut(x), 2)  # published: convolve, then pool
    torch.testing.assert_close(block(x), shortcut + block.gamma * residual)


def test_mask_predictor_gives_logits_and_masks_are_interpolated_as_logits():
    logits = MaskPredictor(3, hidden_channels=4)(torch.randn(2, 3, 5, 6))
    assert logits.shape == (2, 1, 5, 6)
    ramp = torch.tensor([[[[0.0, 4.0]]]])
    expected = torch.sigmoid(torch.tensor([0.0, 4 / 3, 8 / 3, 4.0])).expand(1, 1, 2, 4)
    torch.testing.assert_close(MaskPredictor.to_mask(ramp, scale=2), expected)


def test_mask_predictor_draws_with_batch_norm_folded_into_its_convolution():
    predictor = MaskPredictor(3, hidden_channels=4)
    x = torch.randn(2, 3, 5, 6)
    for _ in range(3):
        predictor(3 * x + 1)  # running statistics that are not the initial ones
    with torch.no_grad():
        predictor.layers[1].weight.uniform_(0.5, 2)
        predictor.layers[1].bias.normal_()
    expected = predictor.eval()(x)
    with torch.no_grad():
        torch.testing.assert_close(predictor(x), expected, rtol=1e-5, atol=1e-5)


def test_settings_show_in_repr():
    norm = repr(SemanticAffineBN(5, 8, 7, momentum=0.2, activation="relu"))
    assert "5, cond_dim=8, hidden_dim=7, scale='residual', activation='relu'" in norm
    assert "BatchNorm2d(5, eps=1e-05, momentum=0.2, affine=False" in norm
    assert "in_channels=3" in repr(MaskPredictor(3))
    assert "in_channels=8, cond_dim=6" in repr(MatchingHead(8, 4, cond_dim=6))
    assert "upsample=False" in repr(SSAConv(2, 2, upsample=False))


def test_wrong_shapes_are_refused_with_the_rule():
    with pytest.raises(ValueError, match=r"cond must be \(N, D\) with D = cond_dim = 8, got \(2, 9\)"):
        SemanticAffineBN(5, 8)(torch.randn(2, 5, 4, 4), torch.randn(2, 9))
    with pytest.raises(ValueError, match="activation must be"):
        SemanticAffineBN(5, activation="gelu")
    with pytest.raises(ValueError, match=r"C = in_channels = 3, got \(2, 4, 4, 4\)"):
        MaskPredictor(3)(torch.randn(2, 4, 4, 4))
    head = MatchingHead(8, 4, cond_dim=6)
    with pytest.raises(ValueError, match=r"features must be \(N, 8, 4, 4\), got \(2, 8, 2, 2\)"):
        head(torch.randn(2, 8, 2, 2), torch.randn(2, 6))
    with pytest.raises(ValueError, match=r"cond must be \(N, D\) = \(2, 6\)"):
        head(torch.randn(2, 8, 4, 4), torch.randn(3, 6))

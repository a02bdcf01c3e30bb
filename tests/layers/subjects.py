"""Small layers and models, one of each kind, with inputs for them."""

import torch
from torch import nn

from t2ilayers import MaskPredictor, MatchingAwareDiscriminator, SemanticAffineBN, SSAConv, SSAGenerator
from t2ilayers.layers import (
    ActivatedBatchNorm,
    AdaptiveGroupNorm2d,
    AdaptiveInstanceNorm2d,
    AttentionMatchingHead,
    ConditionalBatchNorm2d,
    ConditionalNorm2d,
    Conv2d,
    DFAffineBlock,
    DownBlock,
    FiLM2d,
    FusedSequential,
    MatchingHead,
    PreActivationBlock,
    ProjectionHead,
    SelfAttention2d,
    SPADE2d,
    SpectralConv2d,
)
from t2ilayers.models import (
    BigGANBlock,
    BridgeBlock,
    CLIPBlock,
    DFBlock,
    DFGenerator,
    ProjectionBlock,
    RATGenerator,
    SPADEBlock,
)


def x(n=4, c=6, side=4):
    return torch.randn(n, c, side, side)


def cond(n=4, d=5):
    return torch.randn(n, d)


def classes(n=4):
    return torch.tensor([0, 2, 1, 2])[:n]


SUBJECTS = {
    "SemanticAffineBN": (lambda: SemanticAffineBN(6, 5, 7, activation="relu"), lambda: (x(), cond())),
    "absolute": (lambda: ConditionalNorm2d(6, 5, hidden_dim=7, scale="absolute"), lambda: (x(), cond())),
    "ConditionalBatchNorm2d": (lambda: ConditionalBatchNorm2d(6, 3), lambda: (x(), classes())),
    "AdaptiveInstanceNorm2d": (lambda: AdaptiveInstanceNorm2d(6, 5), lambda: (x(), cond())),
    "AdaptiveGroupNorm2d": (
        lambda: AdaptiveGroupNorm2d(6, 5, groups=2, activation="silu"), lambda: (x(), cond())
    ),
    "FiLM2d": (lambda: FiLM2d(6, 5, activation="leaky_relu"), lambda: (x(), cond())),
    "SPADE2d": (lambda: SPADE2d(6, 3, 5), lambda: (x(), x(c=3, side=8))),
    "DFAffineBlock": (lambda: DFAffineBlock(6, 5), lambda: (x(), cond())),
    "MaskPredictor": (lambda: MaskPredictor(6, 5), lambda: (x(),)),
    "ActivatedBatchNorm": (lambda: ActivatedBatchNorm(6, "leaky_relu"), lambda: (x(),)),
    "FusedSequential": (
        lambda: FusedSequential(
            nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5, affine=False), nn.SiLU(), nn.BatchNorm2d(5), Conv2d(5, 4, 1)
        ),
        lambda: (x(),),
    ),
    "SSAConv, upsampling": (lambda: SSAConv(6, 4, 5, mask_channels=3), lambda: (x(), cond())),
    "SSAConv": (lambda: SSAConv(6, 6, 5, upsample=False, mask_channels=3), lambda: (x(), cond())),
    "DownBlock": (lambda: DownBlock(6, 4), lambda: (x(),)),
    "MatchingHead": (lambda: MatchingHead(6, 4, 5), lambda: (x(), cond())),
    "ProjectionHead": (lambda: ProjectionHead(6, 3), lambda: (x(), classes())),
    "SelfAttention2d": (lambda: SelfAttention2d(8), lambda: (x(c=8),)),
    "PreActivationBlock": (lambda: PreActivationBlock(6, 4, convolution=SpectralConv2d), lambda: (x(),)),
    "BigGANBlock": (lambda: BigGANBlock(6, 4, 5), lambda: (x(), cond())),
    "SPADEBlock": (lambda: SPADEBlock(6, 4, 3, upsample=True), lambda: (x(), x(c=3, side=8))),
    "ProjectionBlock": (lambda: ProjectionBlock(6, 4, 3, spectral_norm=True), lambda: (x(), classes())),
    "SSAGenerator": (
        lambda: SSAGenerator(16, ngf=2, z_dim=6, cond_dim=5, mask_channels=3), lambda: (torch.randn(4, 6), cond())
    ),
    "DFBlock": (lambda: DFBlock(6, 4, 5), lambda: (x(), cond())),
    "DFBlock, convolved first": (lambda: DFBlock(3, 2, 5), lambda: (x(c=3, side=16), cond())),
    "DFBlock of a given size": (lambda: DFBlock(6, 4, 5, size=7), lambda: (x(), cond())),
    "BridgeBlock": (lambda: BridgeBlock(6, 3, 4, 5), lambda: (x(), cond())),
    "CLIPBlock": (lambda: CLIPBlock(6, 6), lambda: (x(), x())),
    "DFBlock of 2020": (lambda: DFBlock(6, 6, 5, 7, upsample=False, gated=True), lambda: (x(), cond())),
    "DFGenerator": (lambda: DFGenerator(16, ngf=2, z_dim=6, cond_dim=5), lambda: (torch.randn(4, 6), cond())),
    "RATGenerator": (lambda: RATGenerator(16, ngf=1, z_dim=6, cond_dim=5), lambda: (torch.randn(4, 6), cond())),
    "AttentionMatchingHead": (lambda: AttentionMatchingHead(6, 4, 5), lambda: (x(side=8), cond())),
    "MatchingAwareDiscriminator": (
        lambda: MatchingAwareDiscriminator(16, ndf=2, cond_dim=5), lambda: (x(c=3, side=16), cond())
    ),
}  # fmt: skip


def make(name, change=None, seed=0):
    """A layer away from its start, where residuals are zero, in float64, changed by ``change``."""
    torch.manual_seed(seed)
    module = SUBJECTS[name][0]()
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(std=0.3)
        for key, buffer in module.named_buffers():
            if key.endswith("running_mean"):
                buffer.normal_(std=0.3)
            elif key.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    module = module.double()
    return module if change is None else change(module)


def inputs(name, seed=1):
    torch.manual_seed(seed)
    return tuple(t.double().requires_grad_() if t.is_floating_point() else t for t in SUBJECTS[name][1]())


def first(result):
    """The features of a result: models and blocks return masks besides."""
    return result[0] if isinstance(result, tuple) else result

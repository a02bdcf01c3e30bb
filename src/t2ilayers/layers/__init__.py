"""Modules over the ops: each owns parameters and nothing else."""

from .affine_norm import SemanticAffineBN
from .batch_norm import ActivatedBatchNorm
from .discriminator import DownBlock, MatchingHead
from .fused import FusedSequential
from .gradfix import Conv2d, LeakyReLU
from .mask import MaskPredictor
from .ssa_conv import SSAConv

__all__ = [
    "ActivatedBatchNorm", "Conv2d", "DownBlock", "FusedSequential", "LeakyReLU", "MaskPredictor", "MatchingHead",
    "SSAConv", "SemanticAffineBN",
]  # fmt: skip

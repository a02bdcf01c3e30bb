"""Modules over the ops: each owns parameters and nothing else."""

from .affine_norm import SemanticAffineBN
from .batch_norm import ActivatedBatchNorm
from .conv import Conv2d
from .discriminator import DownBlock, MatchingHead
from .mask import MaskPredictor
from .ssa_conv import SSAConv

__all__ = [
    "ActivatedBatchNorm", "Conv2d", "DownBlock", "MaskPredictor", "MatchingHead", "SSAConv", "SemanticAffineBN",
]  # fmt: skip

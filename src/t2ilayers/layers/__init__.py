"""Modules over the ops: each owns parameters and nothing else."""

from .affine_norm import SemanticAffineBN
from .batch_norm import ActivatedBatchNorm
from .discriminator import DownBlock, MatchingHead
from .mask import MaskPredictor
from .ssa_conv import SSAConv

__all__ = ["ActivatedBatchNorm", "DownBlock", "MaskPredictor", "MatchingHead", "SSAConv", "SemanticAffineBN"]

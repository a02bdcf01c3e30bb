"""Modules over the ops: each owns parameters and nothing else."""

from .batch_norm import ActivatedBatchNorm
from .conditional_norm import ConditionalNorm2d, SemanticAffineBN, affine_parameters
from .df_affine import DFAffineBlock
from .discriminator import DownBlock
from .fused import FusedSequential
from .gradfix import Conv2d, LeakyReLU
from .heads import MatchingHead, ProjectionHead
from .mask import MaskPredictor
from .named_norms import AdaptiveGroupNorm2d, AdaptiveInstanceNorm2d, ConditionalBatchNorm2d, FiLM2d
from .spade import SPADE2d
from .ssa_conv import SSAConv

__all__ = [
    "ActivatedBatchNorm",
    "AdaptiveGroupNorm2d",
    "AdaptiveInstanceNorm2d",
    "ConditionalBatchNorm2d",
    "ConditionalNorm2d",
    "Conv2d",
    "DFAffineBlock",
    "DownBlock",
    "FiLM2d",
    "FusedSequential",
    "LeakyReLU",
    "MaskPredictor",
    "MatchingHead",
    "ProjectionHead",
    "SPADE2d",
    "SSAConv",
    "SemanticAffineBN",
    "affine_parameters",
]

"""Modules over the ops: each owns parameters and nothing else."""

from .attention import SelfAttention2d
from .batch_norm import ActivatedBatchNorm
from .conditional_norm import ConditionalNorm2d, SemanticAffineBN, affine_parameters
from .df_affine import DFAffineBlock, chain_parameters
from .discriminator import DownBlock, PreActivationBlock
from .fused import FusedSequential
from .gates import set_gates
from .gradfix import Conv2d, LeakyReLU
from .heads import AttentionMatchingHead, MatchingHead, ProjectionHead
from .mask import MaskPredictor
from .named_norms import AdaptiveGroupNorm2d, AdaptiveInstanceNorm2d, ConditionalBatchNorm2d, FiLM2d
from .spade import SPADE2d
from .spectral import SpectralConv2d, SpectralEmbedding, SpectralLinear, SpectralNorm
from .ssa_conv import SSAConv
from .whitening import whiten

__all__ = [
    "ActivatedBatchNorm",
    "AdaptiveGroupNorm2d",
    "AdaptiveInstanceNorm2d",
    "AttentionMatchingHead",
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
    "PreActivationBlock",
    "ProjectionHead",
    "SPADE2d",
    "SSAConv",
    "SelfAttention2d",
    "SemanticAffineBN",
    "SpectralConv2d",
    "SpectralEmbedding",
    "SpectralLinear",
    "SpectralNorm",
    "affine_parameters",
    "chain_parameters",
    "set_gates",
    "whiten",
]

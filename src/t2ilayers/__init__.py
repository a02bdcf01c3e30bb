"""Conditional-GAN layers for text-to-image synthesis, and a reference SSA-GAN made of them."""

from .layers import MaskPredictor, SemanticAffineBN, SSAConv
from .models import SSAGAN, MatchingAwareDiscriminator, SSAGANConfig, SSAGenerator

__version__ = "0.1.0"

__all__ = [
    "SSAGAN",
    "MaskPredictor",
    "MatchingAwareDiscriminator",
    "SSAConv",
    "SSAGANConfig",
    "SSAGenerator",
    "SemanticAffineBN",
    "__version__",
]

"""Reference models made of the library's layers."""

from .discriminators import MatchingAwareDiscriminator
from .ssagan import SSAGAN, SSAGANConfig, SSAGenerator, SSAGeneratorOutput

__all__ = ["SSAGAN", "MatchingAwareDiscriminator", "SSAGANConfig", "SSAGenerator", "SSAGeneratorOutput"]

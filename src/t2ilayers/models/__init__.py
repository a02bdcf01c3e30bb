"""Reference models made of the library's layers."""

from .ssagan import SSAGAN, MatchingAwareDiscriminator, SSAGANConfig, SSAGenerator, SSAGeneratorOutput

__all__ = ["SSAGAN", "MatchingAwareDiscriminator", "SSAGANConfig", "SSAGenerator", "SSAGeneratorOutput"]

"""Reference models made of the library's layers."""

from .dfgan import DFBlock, DFGenerator, GeneratorOutput
from .discriminators import MatchingAwareDiscriminator
from .projection import ProjectionBlock, ProjectionDiscriminator, ProjectionGenerator
from .ssagan import SSAGAN, SSAGANConfig, SSAGenerator, SSAGeneratorOutput

__all__ = [
    "SSAGAN",
    "DFBlock",
    "DFGenerator",
    "GeneratorOutput",
    "MatchingAwareDiscriminator",
    "ProjectionBlock",
    "ProjectionDiscriminator",
    "ProjectionGenerator",
    "SSAGANConfig",
    "SSAGenerator",
    "SSAGeneratorOutput",
]

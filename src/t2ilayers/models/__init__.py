"""Reference models made of the library's layers."""

from .dfgan import DFBlock, DFGenerator, GeneratorOutput
from .discriminators import MatchingAwareDiscriminator
from .projection import ProjectionBlock, ProjectionDiscriminator, ProjectionGenerator
from .ratgan import RATGenerator, RecurrentCondition
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
    "RATGenerator",
    "RecurrentCondition",
    "SSAGANConfig",
    "SSAGenerator",
    "SSAGeneratorOutput",
]

"""Reference models made of the library's layers."""

from .biggan import BigGANBlock, BigGANDeepBlock, BigGANDiscriminator, BigGANGenerator
from .clip import BridgeBlock, CLIPAdapter, CLIPFeatures, CLIPImageEncoder, CLIPMapper
from .dfgan import DFBlock, DFGenerator, GeneratorOutput
from .discriminators import MatchingAwareDiscriminator
from .features import FeatureDiscriminator
from .galip import CLIPBlock, GALIPDiscriminator, GALIPGenerator
from .patch import MultiscaleDiscriminator, PatchDiscriminator, PatchOutput
from .projection import ProjectionBlock, ProjectionDiscriminator, ProjectionGenerator
from .ratgan import RATGenerator, RecurrentCondition
from .spade import SPADEBlock, SPADEGenerator
from .ssa_generator import SSAGenerator, SSAGeneratorOutput
from .ssagan import SSAGAN, SSAGANConfig

__all__ = [
    "SSAGAN",
    "BigGANBlock",
    "BigGANDeepBlock",
    "BigGANDiscriminator",
    "BigGANGenerator",
    "BridgeBlock",
    "CLIPAdapter",
    "CLIPBlock",
    "CLIPFeatures",
    "CLIPImageEncoder",
    "CLIPMapper",
    "DFBlock",
    "DFGenerator",
    "FeatureDiscriminator",
    "GALIPDiscriminator",
    "GALIPGenerator",
    "GeneratorOutput",
    "MatchingAwareDiscriminator",
    "MultiscaleDiscriminator",
    "PatchDiscriminator",
    "PatchOutput",
    "ProjectionBlock",
    "ProjectionDiscriminator",
    "ProjectionGenerator",
    "RATGenerator",
    "RecurrentCondition",
    "SPADEBlock",
    "SPADEGenerator",
    "SSAGANConfig",
    "SSAGenerator",
    "SSAGeneratorOutput",
]

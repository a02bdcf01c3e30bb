"""Pieces of training: steps, the average, a run with its checkpoints and log, processes and the allocator."""

from ..allocator import keep_large_blocks
from .augment import DiffAugment
from .checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from .ema import EMA
from .encoders import EncoderStep
from .gan import MatchingAwareConfig, MatchingAwareStep
from .log import MetricsLog, NonFiniteLossError
from .precision import fastest_precision
from .processes import Processes, join_processes, synchronize_statistics
from .run import Run
from .run_config import RunConfig
from .signals import open_standard_streams, say
from .ssagan import SSAGANStep, StepConfig
from .text_image import DAMSM, CLIPSimilarity, TextImageLoss

__all__ = [
    "DAMSM",
    "EMA",
    "CLIPSimilarity",
    "DiffAugment",
    "EncoderStep",
    "MatchingAwareConfig",
    "MatchingAwareStep",
    "MetricsLog",
    "NonFiniteLossError",
    "Processes",
    "Run",
    "RunConfig",
    "SSAGANStep",
    "StepConfig",
    "TextImageLoss",
    "fastest_precision",
    "join_processes",
    "keep_large_blocks",
    "latest_checkpoint",
    "load_checkpoint",
    "open_standard_streams",
    "save_checkpoint",
    "say",
    "synchronize_statistics",
]

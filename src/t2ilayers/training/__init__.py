"""Pieces of training: the step, the average, checkpoints, figures and the allocator."""

from ..allocator import keep_large_blocks
from .checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from .ema import EMA
from .encoders import EncoderStep
from .gan import MatchingAwareConfig, MatchingAwareStep, TextImageLoss
from .log import MetricsLog, NonFiniteLossError
from .precision import fastest_precision
from .processes import Processes, synchronize_statistics
from .ssagan import DAMSM, SSAGANStep, StepConfig

__all__ = [
    "DAMSM",
    "EMA",
    "EncoderStep",
    "MatchingAwareConfig",
    "MatchingAwareStep",
    "MetricsLog",
    "NonFiniteLossError",
    "Processes",
    "SSAGANStep",
    "StepConfig",
    "TextImageLoss",
    "fastest_precision",
    "keep_large_blocks",
    "latest_checkpoint",
    "load_checkpoint",
    "save_checkpoint",
    "synchronize_statistics",
]

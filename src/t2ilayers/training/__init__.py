"""Pieces of training: the step, the average, checkpoints, figures and the allocator."""

from ..allocator import keep_large_blocks
from .checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from .ema import EMA
from .encoders import EncoderStep
from .gan import SSAGANStep, StepConfig
from .log import MetricsLog, NonFiniteLossError
from .precision import fastest_precision
from .processes import Processes, synchronize_statistics

__all__ = [
    "EMA",
    "EncoderStep",
    "MetricsLog",
    "NonFiniteLossError",
    "Processes",
    "SSAGANStep",
    "StepConfig",
    "fastest_precision",
    "keep_large_blocks",
    "latest_checkpoint",
    "load_checkpoint",
    "save_checkpoint",
    "synchronize_statistics",
]

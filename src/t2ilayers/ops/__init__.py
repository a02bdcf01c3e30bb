"""Stateless functions. They know nothing of modules and import torch only."""

from ._affine_chain import affine_chain
from ._gradfix import average_pool2d, conv2d, leaky_relu
from ._masked_affine_norm import masked_affine_norm
from ._options import Activation, Impl, Scale, Stats, check_activation

__all__ = [
    "Activation",
    "Impl",
    "Scale",
    "Stats",
    "affine_chain",
    "average_pool2d",
    "check_activation",
    "conv2d",
    "leaky_relu",
    "masked_affine_norm",
]

"""Stateless functions. They know nothing of modules and import torch only."""

from .masked_affine_norm import masked_affine_norm

__all__ = ["masked_affine_norm"]

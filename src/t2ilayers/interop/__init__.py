"""Other people's checkpoints."""

from . import official

__all__ = ["official"]

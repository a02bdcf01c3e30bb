"""``t2ilayers validate``: check captioned pictures before a training."""

from __future__ import annotations

from collections.abc import Sequence

from ..data import validate


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    return validate.main(arguments, program="t2ilayers validate")

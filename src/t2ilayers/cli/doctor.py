"""``t2ilayers doctor``: what native kernels need, what of it is here, and what tensors will use."""

from __future__ import annotations

from collections.abc import Sequence

from .. import doctor


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    return doctor.main(arguments, program="t2ilayers doctor")

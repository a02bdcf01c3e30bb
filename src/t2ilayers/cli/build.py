"""``t2ilayers build``: make captioned pictures of a package that everybody can install."""

from __future__ import annotations

from collections.abc import Sequence

from ..data import build


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    return build.main(arguments, program="t2ilayers build")

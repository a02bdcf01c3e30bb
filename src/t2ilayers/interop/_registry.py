"""The table of published files: whose they are, by their keys, and what a module of ours is published as."""

from __future__ import annotations

from torch import nn

from .._files import some
from . import _biggan, _damsm, _galip, _mimicry, _spade, _text
from ._format import Format, Role, State

FORMATS: tuple[Format, ...] = (
    *_galip.FORMATS,  # before DF-GAN, whose blocks it has
    *_text.FORMATS,
    *_mimicry.FORMATS,
    *_biggan.FORMATS,
    *_spade.FORMATS,
    *_damsm.FORMATS,
)


def format_of_state(state: State, role: Role) -> Format:
    """The format whose keys these are; ValueError if nobody's."""
    known = [entry for entry in FORMATS if entry.role == role]
    for entry in known:
        if entry.knows(state):
            return entry
    names = ", ".join(dict.fromkeys(entry.name for entry in known))
    keys = some(sorted(state), most=5)
    raise ValueError(f"weights must be those of a published {role} ({names}), got a state dict with {keys}")


def format_of(module: nn.Module) -> Format:
    """The format in which a module is published; TypeError if in none."""
    for entry in FORMATS:
        if isinstance(module, entry.kind) and entry.fits(module):
            return entry
    kinds = ", ".join(dict.fromkeys(entry.kind.__name__ for entry in FORMATS))
    raise TypeError(f"published checkpoints exist for {kinds}, got {type(module).__name__}")

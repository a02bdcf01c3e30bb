"""What the published file of a network looks like, and which entry of ours each of its entries is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from .._files import some

State = Mapping[str, Tensor]
Role = Literal["generator", "discriminator", "text encoder", "image encoder", "layer"]

_MOST_BLOCKS = 10  # pictures of 2048 px


def _as_it_is(state: State) -> State:
    return state


def _nothing(module: Any) -> dict[str, tuple[int, ...]]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Format:
    """One kind of network in published files.

    Attributes:
        role: which loader reads it.
        name: whose it is, as errors say it.
        kind: our class of it.
        fits: whether a module of that class is one of these; of two formats of a class, the first that fits.
        knows: whether these are its keys; of two formats of a role, the first that knows them.
        build: a module of the sizes of a state, called on the meta device; further arguments are what ``options``
            names.
        options: what keys and shapes cannot tell.
        names: for a module, prefixes of published keys to prefixes of ours; the longest that fits counts, and what
            follows is the same in both.
        unused: for a module, entries of published files that nothing uses, and their shapes.
        read: published entries to such as have one of ours each, where they do not.
        write: the inverse of ``read``.
    """

    role: Role
    name: str
    kind: type[nn.Module]
    knows: Callable[[State], bool]
    build: Callable[..., nn.Module]
    names: Callable[[Any], Mapping[str, str]]
    fits: Callable[[Any], bool] = lambda module: True
    options: tuple[str, ...] = ()
    unused: Callable[[Any], Mapping[str, tuple[int, ...]]] = _nothing
    read: Callable[[State], State] = _as_it_is
    write: Callable[[State], State] = _as_it_is

    def keys(self, module: nn.Module) -> dict[str, str]:
        """Our keys by published ones, as :attr:`read` leaves them."""
        published = {ours: theirs for theirs, ours in self.names(module).items()}
        return {_rename(key, published): key for key in module.state_dict()}

    def export(self, module: nn.Module) -> dict[str, Tensor]:
        """The published entries of a module; those that nothing uses are zeros."""
        state = module.state_dict()
        entries = {theirs: state[ours] for theirs, ours in self.keys(module).items()}
        like = next(iter(module.parameters()))
        spare = {key: like.new_zeros(shape) for key, shape in self.unused(module).items()}
        return dict(self.write(entries | spare))


def within(theirs: str, ours: str, names: Mapping[str, str]) -> dict[str, str]:
    """``names`` of a part that lies under the prefix ``theirs`` there and ``ours`` here."""
    return {theirs + key: ours + name for key, name in names.items()}


def has(*keys: str, without: Iterable[str] = ()) -> Callable[[State], bool]:
    """Whether a state has all of some keys, and none of others."""
    return lambda state: all(key in state for key in keys) and not any(key in state for key in without)


def need(state: State, key: str, dims: int) -> Tensor:
    """An entry of so many dimensions; ValueError if it is missing or has others."""
    if key not in state:
        raise ValueError(f"missing key {key}; the file has {some(sorted(state), most=5)}")
    if state[key].dim() != dims:
        raise ValueError(f"misshapen key {key}: must have {dims} dimensions, got {tuple(state[key].shape)}")
    return state[key]


def count(state: State, pattern: str, most: int = _MOST_BLOCKS) -> int:
    """How many numbers the pattern's group matches, as of blocks; ValueError if there are too many."""
    numbers = {match[1] for key in state if (match := re.match(pattern, key))}
    if len(numbers) > most:
        raise ValueError(f"a checkpoint must have at most {most} blocks, got {len(numbers)}")
    return len(numbers)


def _rename(key: str, prefixes: Mapping[str, str]) -> str:
    """``key`` with its longest matching prefix replaced."""
    prefix = max((prefix for prefix in prefixes if key.startswith(prefix)), key=len)
    return prefixes[prefix] + key.removeprefix(prefix)

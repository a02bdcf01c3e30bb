"""A copy of the state from before each step, for when a step ends half done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Snapshot:
    """A copy of a state: nested dictionaries and lists of tensors and plain values.

    It stays on the devices of the tensors, and each copy goes into the memory of the one before.

    Attributes:
        state: what was copied last; empty before the first :meth:`take`.

    Example:
        >>> weight, snapshot = torch.zeros(2), Snapshot()
        >>> snapshot.take({"weight": weight, "rates": [0.1]})
        >>> weight += 1
        >>> snapshot.state
        {'weight': tensor([0., 0.]), 'rates': [0.1]}
    """

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def take(self, state: Mapping[str, Any]) -> None:
        """Copy ``state``."""
        pairs: list[tuple[Tensor, Tensor]] = []
        self.state = _copy(state, self.state, pairs)
        if pairs:
            kept, new = (list(tensors) for tensors in zip(*pairs, strict=True))
            torch._foreach_copy_(kept, new)


def _copy(value: Any, kept: Any, pairs: list[tuple[Tensor, Tensor]]) -> Any:
    """A copy of ``value``; where ``kept`` has a fitting tensor, that one, and ``pairs`` says what goes into it."""
    if isinstance(value, Tensor):
        value = value.detach()
        if isinstance(kept, Tensor) and _kind(kept) == _kind(value):
            pairs.append((kept, value))
            return kept
        return value.clone()
    if isinstance(value, Mapping):
        olds = kept if isinstance(kept, Mapping) else {}
        return {key: _copy(part, olds.get(key), pairs) for key, part in value.items()}
    if isinstance(value, list | tuple):
        fits = isinstance(kept, list | tuple) and len(kept) == len(value)
        return type(value)(_copy(part, kept[i] if fits else None, pairs) for i, part in enumerate(value))
    return value


def _kind(tensor: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return tensor.shape, tensor.dtype, tensor.device

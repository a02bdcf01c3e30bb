"""Checkpoints that were saved when a part of a layer had another name."""

from typing import Any

from torch import nn


def take_former_keys(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """A hook before ``load_state_dict``: entries that ``module.former_keys`` names get the names of today."""
    for former, key in module.former_keys.items():  # type: ignore[union-attr, operator]
        if prefix + former in state:
            state[prefix + key] = state.pop(prefix + former)

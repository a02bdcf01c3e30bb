"""The published keys of modules with spectral norm."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ..layers import SpectralNorm

# By our leaf, the leaf of torch's hook; every other code has its own for what takes a step in evaluation mode.
_TORCHS = {"weight": "weight_orig", "u": "weight_u", "v": "weight_v"}


def names(model: nn.Module, prefixes: Mapping[str, str], stepping: Mapping[str, str]) -> dict[str, str]:
    """Our keys by published ones.

    Args:
        model: whose keys.
        prefixes: published prefixes by ours; the longest that fits counts.
        stepping: published leaves by ours, of modules that take a step in evaluation mode.
    """
    found = {}
    for key in model.state_dict():
        prefix = max((prefix for prefix in prefixes if key.startswith(prefix)), key=len)
        path, _, leaf = key.rpartition(".")
        part = model.get_submodule(path)
        published = prefixes[prefix] + key.removeprefix(prefix)
        if isinstance(part, SpectralNorm):
            leaves = stepping if part.step_in_eval else _TORCHS
            published = published.removesuffix(leaf) + leaves.get(leaf, leaf)
        found[published] = key
    return found


def without_rows(state: Mapping[str, Tensor], u: str, sigma: str) -> dict[str, Tensor]:
    """Published u ``(1, C)`` and sigma ``(1,)``, by their leaves, in the shapes of ours."""
    leaves = {u: 2, sigma: 1}
    return {
        key: value[0] if value.dim() == leaves.get(key.rpartition(".")[2]) and len(value) == 1 else value
        for key, value in state.items()
    }


def with_rows(state: Mapping[str, Tensor], u: str, sigma: str) -> dict[str, Tensor]:
    """The inverse of :func:`without_rows`."""
    return {key: value[None] if key.rpartition(".")[2] in (u, sigma) else value for key, value in state.items()}

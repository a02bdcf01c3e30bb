"""Back to a fresh layer: what fills parameters that were made on the meta device."""

from torch import nn


def reset_parts(module: nn.Module) -> None:
    """Call ``reset_parameters`` of everything within ``module``, inner modules before those that hold them."""
    for part in reversed(list(module.modules())):
        reset = getattr(part, "reset_parameters", None)
        if part is not module and callable(reset):
            reset()

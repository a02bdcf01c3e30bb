"""Conditional-GAN layers for text-to-image synthesis, and a reference SSA-GAN made of them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .layers import MaskPredictor, SemanticAffineBN, SSAConv
    from .models import SSAGAN, MatchingAwareDiscriminator, SSAGANConfig, SSAGenerator
else:
    # Imported when first asked for: the command line says --help at once, and sets what torch reads when it loads.
    from importlib import import_module

    _ROOMS = {
        "layers": ("MaskPredictor", "SSAConv", "SemanticAffineBN"),
        "models": ("MatchingAwareDiscriminator", "SSAGAN", "SSAGANConfig", "SSAGenerator"),
    }

    def __getattr__(name):
        if name in ("ops", "encoders", *_ROOMS):
            return import_module(f".{name}", __name__)
        for room, names in _ROOMS.items():
            if name in names:
                globals()[name] = getattr(import_module(f".{room}", __name__), name)
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__version__ = "0.1.0"

__all__ = [
    "SSAGAN",
    "MaskPredictor",
    "MatchingAwareDiscriminator",
    "SSAConv",
    "SSAGANConfig",
    "SSAGenerator",
    "SemanticAffineBN",
    "__version__",
]

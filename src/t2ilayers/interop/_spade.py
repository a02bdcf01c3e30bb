"""Checkpoints of SPADE: both networks, the block and the norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from ..layers import SPADE2d
from ..models import MultiscaleDiscriminator, PatchDiscriminator, SPADEBlock, SPADEGenerator
from ..models.spade import Upsampling
from ._format import Format, State, count, has, need
from ._spectral import names

_BLOCKS = ("head_0", "G_middle_0", "G_middle_1", "up_0", "up_1", "up_2", "up_3", "up_4")
_DOUBLINGS = {"normal": 5, "more": 6, "most": 7}


def _norm_options(state: State, prefix: str = "") -> dict[str, Any]:
    """Channels of the label map, kernel and statistics of a norm."""
    shared = need(state, f"{prefix}mlp_shared.0.weight", 4)
    return {
        "label_channels": shared.shape[1],
        "kernel_size": shared.shape[2],
        "stats": "batch" if f"{prefix}param_free_norm.running_var" in state else "instance",
    }


def _build_generator(
    state: State, *, image_size: int | tuple[int, int] = 256, upsampling: Upsampling = "normal"
) -> SPADEGenerator:
    """Of pictures of 256 px, upsampled 5 or 7 times; a file tells neither the size nor 5 from 6 times."""
    ngf = need(state, "up_3.conv_1.bias", 1).shape[0]
    fc = state["fc.weight"]
    return SPADEGenerator(
        image_size, ngf=ngf, z_dim=fc.shape[1] if fc.dim() == 2 else 0,
        upsampling="most" if "up_4.conv_0.bias" in state else upsampling,
        spectral_norm="head_0.conv_0.weight_orig" in state, **_norm_options(state, "head_0.norm_0."),
    )  # fmt: skip


def _build_discriminator(state: State) -> MultiscaleDiscriminator:
    first = need(state, "discriminator_0.model0.0.weight", 4)
    scales, stages = count(state, r"discriminator_(\w+)\."), count(state, r"discriminator_0\.model(\w+)\.") - 1
    return MultiscaleDiscriminator(first.shape[1] - 3, first.shape[0], scales=scales, stages=stages)


def _build_block(state: State, *, upsample: bool = False) -> SPADEBlock:
    """A block by itself: the published generator upsamples between blocks."""
    key = "conv_{}.weight_orig" if "conv_0.weight_orig" in state else "conv_{}.weight"
    first, last = need(state, key.format(0), 4), need(state, key.format(1), 4)
    return SPADEBlock(
        first.shape[1], last.shape[0], upsample=upsample,
        spectral_norm="conv_0.weight_orig" in state, **_norm_options(state, "norm_0."),
    )  # fmt: skip


def _build_norm(state: State) -> SPADE2d:
    gamma = need(state, "mlp_gamma.weight", 4)
    return SPADE2d(gamma.shape[0], hidden_channels=gamma.shape[1], **_norm_options(state))


def _of_generator(model: SPADEGenerator) -> dict[str, str]:
    prefixes = {"fc.": "fc.", "to_image.1.": "conv_img."}
    for i in range(len(model.blocks)):
        prefixes |= _in_block(f"blocks.{i}.", f"{_BLOCKS[i]}.")
    return names(model, prefixes, {})


def _of_discriminator(model: MultiscaleDiscriminator) -> dict[str, str]:
    prefixes: dict[str, str] = {}
    for k, patch in enumerate(cast(Sequence[PatchDiscriminator], model.scales)):
        stages = len(patch.stages)
        ours, theirs = f"scales.{k}.", f"discriminator_{k}."
        prefixes |= {f"{ours}stages.0.0.": f"{theirs}model0.0.", f"{ours}last.": f"{theirs}model{stages}.0."}
        prefixes |= {f"{ours}stages.{i}.0.": f"{theirs}model{i}.0.0." for i in range(1, stages)}
    return names(model, prefixes, {})


def _in_block(ours: str = "", theirs: str = "") -> dict[str, str]:
    prefixes = {}
    for part, name in (("conv1", "conv_0"), ("conv2", "conv_1"), ("shortcut", "conv_s")):
        prefixes[f"{ours}{part}."] = f"{theirs}{name}."
    for part, name in (("norm1", "norm_0"), ("norm2", "norm_1"), ("shortcut_norm", "norm_s")):
        prefixes |= _in_norm(f"{ours}{part}.", f"{theirs}{name}.")
    return prefixes


def _in_norm(ours: str = "", theirs: str = "") -> dict[str, str]:
    parts = {"normalize": "param_free_norm", "shared": "mlp_shared", "gamma": "mlp_gamma", "beta": "mlp_beta"}
    return {f"{ours}{part}.": f"{theirs}{name}." for part, name in parts.items()}


FORMATS = (
    Format(
        role="generator", name="SPADE", kind=SPADEGenerator, knows=has("fc.weight", "head_0.conv_0.bias"),
        build=_build_generator, names=_of_generator, options=("image_size", "upsampling"),
    ),
    Format(
        role="discriminator", name="SPADE", kind=MultiscaleDiscriminator,
        knows=has("discriminator_0.model0.0.weight"), build=_build_discriminator, names=_of_discriminator,
    ),
    Format(
        role="layer", name="SPADE's block", kind=SPADEBlock, knows=has("conv_0.bias", "norm_0.mlp_gamma.weight"),
        build=_build_block, names=lambda block: names(block, _in_block(), {}), options=("upsample",),
    ),
    Format(
        role="layer", name="SPADE's norm", kind=SPADE2d, knows=has("mlp_gamma.weight", "mlp_beta.weight"),
        build=_build_norm, names=lambda norm: names(norm, _in_norm(), {}),
    ),
)  # fmt: skip

"""Checkpoints of mimicry: cGAN-PD, SNGAN and SAGAN, whole networks, their blocks and layers."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from ..layers import (
    ConditionalBatchNorm2d,
    Conv2d,
    PreActivationBlock,
    SelfAttention2d,
    SpectralConv2d,
    SpectralEmbedding,
    SpectralLinear,
)
from ..models import ProjectionBlock, ProjectionDiscriminator, ProjectionGenerator
from ._format import Format, State, count, has, need
from ._spectral import names, with_rows, without_rows

_STEPPING = {"u": "sn_u", "sigma": "sn_sigma"}
_BLOCK = r"block(\w+)\."
_ATTENTION = {32: (16, 8), 128: (32, 32)}  # by image size, sides of maps that attend to themselves, in G and in D
_LAST = {32: 5, 48: 5, 64: 6, 128: 7}  # by image size, the number of a discriminator's last layer


def _weight(state: State, prefix: str, dims: int) -> Tensor:
    spectral = f"{prefix}.weight_orig" in state
    return need(state, f"{prefix}.weight_orig" if spectral else f"{prefix}.weight", dims)


def _classes(state: State, key: str) -> int:
    return need(state, key, 2).shape[0] if key in state else 0


def _build_generator(state: State) -> ProjectionGenerator:
    rows, z_dim = _weight(state, "l1", 2).shape
    ngf = _weight(state, "block2.c1", 4).shape[1]
    sizes = {(3, 4): 32, (3, 6): 48, (4, 4): 64, (5, 4): 128}
    size = sizes.get((count(state, _BLOCK), round((rows / ngf) ** 0.5)), 0)
    return ProjectionGenerator(
        size, ngf, z_dim, _classes(state, "block2.b1.embed.weight"),
        attention=(_ATTENTION.get(size, (0, 0))[0],) if "attn_block.gamma" in state else (),
        spectral_norm="l1.weight_orig" in state,
    )  # fmt: skip


def _build_discriminator(state: State) -> ProjectionDiscriminator:
    last = max(int(match[1]) for key in state if (match := re.match(r"l(\d+)\.", key)))
    size = {(4, 5): 32, (5, 5): 48, (5, 6): 64, (6, 7): 128}.get((count(state, _BLOCK), last), 0)
    ndf = _weight(state, f"l{last}", 2).shape[1]
    classes = _classes(state, "l_y.weight") or _classes(state, "l_y.weight_orig")
    attention = (_ATTENTION.get(size, (0, 0))[1],) if "attn_block.gamma" in state else ()
    model = ProjectionDiscriminator(size, ndf, classes, attention=attention)
    if f"l{last}.sn_u" in state:  # cGAN-PD at 32 px has a spectral norm of mimicry's own in its head
        model.head.linear = SpectralLinear(ndf, 1, step_in_eval=True)
        model.head.embed = SpectralEmbedding(classes, ndf, step_in_eval=True)
    return model


def _build_up(state: State, *, upsample: bool = True) -> ProjectionBlock:
    conv = _weight(state, "c1", 4)
    return ProjectionBlock(
        conv.shape[1], conv.shape[0], _classes(state, "b1.embed.weight"),
        upsample=upsample and "c_sc.bias" in state, spectral_norm="c1.weight_orig" in state,
    )  # fmt: skip


def _build_down(state: State, *, first: bool = False, downsample: bool = True) -> PreActivationBlock:
    conv, last = _weight(state, "c1", 4), _weight(state, "c2", 4)
    return PreActivationBlock(
        conv.shape[1], last.shape[0], conv.shape[0],
        first=first, downsample=downsample and "c_sc.bias" in state, activated_shortcut=True,
        convolution=SpectralConv2d if "c1.weight_orig" in state else Conv2d,
    )  # fmt: skip


def _build_norm(state: State) -> ConditionalBatchNorm2d:
    classes, twice = need(state, "embed.weight", 2).shape
    return ConditionalBatchNorm2d(twice // 2, classes)


def _build_convolution(state: State, *, padding: int = 0) -> SpectralConv2d:
    width, channels, *kernel = need(state, "weight", 4).shape
    return SpectralConv2d(channels, width, tuple(kernel), padding=padding, step_in_eval=True)


def _of_generator(model: ProjectionGenerator) -> dict[str, str]:
    last = len(model.blocks) + 2
    prefixes = {"fc.": "l1.", "to_image.0.norm.": f"b{last}.", "to_image.1.": f"c{last}."}
    for i in range(len(model.blocks)):
        prefixes |= _in_block(f"blocks.{i}.", f"block{i + 2}.")
    return names(model, prefixes | _attentions(model), _STEPPING)


def _of_discriminator(model: ProjectionDiscriminator) -> dict[str, str]:
    prefixes = {"head.linear.": f"l{_LAST[model.image_size]}.", "head.embed.": "l_y."}
    for i in range(len(model.blocks)):
        prefixes |= _in_block(f"blocks.{i}.", f"block{i + 1}.")
    return names(model, prefixes | _attentions(model), _STEPPING)


def _attentions(model: ProjectionGenerator | ProjectionDiscriminator) -> dict[str, str]:
    prefixes: dict[str, str] = {}
    for i in model.attentions:
        prefixes |= _in_attention(f"attentions.{i}.", "attn_block.")
    return prefixes


def _in_attention(ours: str = "", published: str = "") -> dict[str, str]:
    parts = {"query": "theta", "key": "phi", "value": "g", "out": "o", "gamma": "gamma"}
    return {ours + part: published + name for part, name in parts.items()}


def _in_block(ours: str = "", published: str = "") -> dict[str, str]:
    prefixes = {
        f"{ours}{part}.": f"{published}{name}."
        for part, name in (("conv1", "c1"), ("conv2", "c2"), ("shortcut", "c_sc"))
    }
    for i in (1, 2):
        prefixes[f"{ours}norm{i}.norm."] = f"{published}b{i}."
        prefixes |= _in_norm(f"{ours}norm{i}.", f"{published}b{i}.")
    return prefixes


def _in_norm(ours: str = "", published: str = "") -> dict[str, str]:
    prefixes = {f"{ours}{part}.weight": f"{published}embed.weight.{part}" for part in ("gamma", "beta")}
    return {f"{ours}normalize.": f"{published}bn."} | prefixes


def _read(state: State) -> dict[str, Tensor]:
    """A table of gamma and beta side by side becomes two."""
    found: dict[str, Tensor] = {}
    for key, value in without_rows(state, "sn_u", "sn_sigma").items():
        if key.endswith("embed.weight") and value.dim() == 2:
            found |= zip((f"{key}.gamma", f"{key}.beta"), value.chunk(2, dim=1), strict=True)
        else:
            found[key] = value
    return found


def _write(state: State) -> dict[str, Tensor]:
    found = {}
    for key, value in with_rows(state, "sn_u", "sn_sigma").items():
        if key.endswith("embed.weight.gamma"):
            found[key.removesuffix(".gamma")] = torch.cat(
                [value, state[key.removesuffix("gamma") + "beta"]], dim=1
            )
        elif not key.endswith("embed.weight.beta"):
            found[key] = value
    return found


FORMATS = (
    Format(
        role="generator", name="mimicry", kind=ProjectionGenerator,
        knows=lambda state: "l1.bias" in state and "block2.c1.bias" in state,
        build=_build_generator, names=_of_generator, read=_read, write=_write,
    ),
    Format(
        role="discriminator", name="mimicry", kind=ProjectionDiscriminator,
        knows=has("block1.c1.weight_orig"),
        build=_build_discriminator, names=_of_discriminator, read=_read, write=_write,
    ),
    Format(
        role="layer", name="mimicry's block of a generator", kind=ProjectionBlock,
        knows=lambda state: any(key in state for key in ("b1.running_var", "b1.bn.running_var")),
        build=_build_up, names=lambda block: names(block, _in_block(), _STEPPING),
        options=("upsample",), read=_read, write=_write,
    ),
    Format(
        role="layer", name="mimicry's block of a discriminator", kind=PreActivationBlock,
        fits=lambda block: block.activated_shortcut,
        knows=lambda state: any(key in state for key in ("c1.weight_orig", "c1.weight"))
        and not any(key.startswith(("b1.", "fuse1.", "affine0.")) for key in state),
        build=_build_down, names=lambda block: names(block, _in_block(), _STEPPING),
        options=("first", "downsample"),
    ),
    Format(
        role="layer", name="mimicry's batch norm of classes", kind=ConditionalBatchNorm2d,
        fits=lambda norm: norm.condition == "embedding" and norm.scale == "absolute",
        knows=has("embed.weight", "bn.running_var"),
        build=_build_norm, names=lambda norm: names(norm, _in_norm(), _STEPPING), read=_read, write=_write,
    ),
    Format(
        role="layer", name="SAGAN's attention", kind=SelfAttention2d,
        fits=lambda attention: not attention.query.step_in_eval,
        knows=has("theta.weight_orig"),
        build=lambda state: SelfAttention2d(need(state, "o.weight_orig", 4).shape[0]),
        names=lambda attention: names(attention, _in_attention(), _STEPPING),
    ),
    Format(
        role="layer", name="mimicry's convolution", kind=SpectralConv2d, fits=lambda conv: conv.step_in_eval,
        knows=has("weight", "sn_u"), build=_build_convolution, names=lambda conv: names(conv, {"": ""}, _STEPPING),
        options=("padding",), read=_read, write=_write,
    ),
)  # fmt: skip

"""Published files of GALIP, whose generator holds a CLIP in the layout of OpenAI's code."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..models import BridgeBlock, CLIPAdapter, CLIPBlock, DFBlock, GALIPDiscriminator, GALIPGenerator
from ._format import Format, State, count, has, need, within
from ._text import names_of_block, names_of_chain

_CLIP = "CLIP_ViT."
_IN_LAYER = {
    "ln_1.": "layer_norm1.", "ln_2.": "layer_norm2.", "attn.out_proj.": "self_attn.out_proj.",
    "mlp.c_fc.": "mlp.fc1.", "mlp.c_proj.": "mlp.fc2.",
    **{f"attn.{part}.": f"self_attn.{part}_proj." for part in "qkv"},
}  # fmt: skip
_MOST_LAYERS = 64  # the largest CLIP has 48


def _bridge(block: BridgeBlock) -> dict[str, str]:
    names = {"conv1.": "conv1.", "conv2.": "conv2.", "c_sc.": "shortcut."}
    for fuse in ("fuse1", "fuse2"):
        names |= within(f"{fuse}.", f"{fuse}.", names_of_chain(("affine0", "affine1")))
    return names


def _adapter(adapter: CLIPAdapter) -> dict[str, str]:
    names = {"conv_fuse.": "bridge.", "conv.": "out.", "fc_prompt.": "prompts."}
    for i, block in enumerate(cast(Sequence[BridgeBlock], adapter.blocks)):
        names |= within(f"FBlocks.{i}.", f"blocks.{i}.", _bridge(block))
    clip = {"class_embedding": "class_embedding", "positional_embedding": "positions.weight", "ln_pre.": "norm."}
    for i in range(len(adapter.mapper.layers)):
        clip |= within(f"transformer.resblocks.{i}.", f"layers.{i}.", _IN_LAYER)
    return names | within(_CLIP, "mapper.", clip)


def _adapter_unused(adapter: CLIPAdapter) -> dict[str, tuple[int, ...]]:
    """CLIP's convolution of pictures, which a generator has no use for."""
    return {f"{_CLIP}conv1.weight": (adapter.mapper.channels, 3, *[adapter.mapper.patch_size] * 2)}


def _generator(model: GALIPGenerator) -> dict[str, str]:
    names = {"fc_code.": "fc.", "to_rgb.": "to_image.", **within("mapping.", "adapter.", _adapter(model.adapter))}
    for i, block in enumerate(cast(Sequence[DFBlock], model.blocks)):
        names |= within(f"GBlocks.{i}.", f"blocks.{i}.", names_of_block(block))
    return names


def _generator_unused(model: GALIPGenerator) -> dict[str, tuple[int, ...]]:
    return {f"mapping.{key}": shape for key, shape in _adapter_unused(model.adapter).items()}


def _apart(state: State) -> State:
    """Queries, keys and values in entries of their own, as transformers has them."""
    apart: dict[str, Tensor] = {}
    for key, value in state.items():
        path, found, leaf = key.rpartition("attn.in_proj_")
        if found:
            thirds = value.reshape(3, -1, *value.shape[1:])
            apart |= {f"{path}attn.{part}.{leaf}": third for part, third in zip("qkv", thirds, strict=True)}
        else:
            apart[key] = value
    return apart


def _together(state: State) -> State:
    """The inverse of :func:`_apart`."""
    together: dict[str, Tensor] = {}
    for key, value in state.items():
        path, found, leaf = key.rpartition("attn.q.")
        if found:
            parts = [state[f"{path}attn.{part}.{leaf}"] for part in "qkv"]
            together[f"{path}attn.in_proj_{leaf}"] = torch.cat(parts)
        elif ".attn.k." not in key and ".attn.v." not in key:
            together[key] = value
    return together


def _vision(state: State, prefix: str) -> Any:
    """The image tower of a CLIP with the sizes of an OpenAI one: heads of 64 channels."""
    try:
        transformers = importlib.import_module("transformers")  # slow to import, and without types
    except ImportError as error:
        message = "a generator of GALIP holds a CLIP and needs transformers 5: pip install 't2ilayers[clip]'"
        raise ImportError(message) from error
    width, _, patch, _ = need(state, f"{prefix}conv1.weight", 4).shape
    places = need(state, f"{prefix}positional_embedding", 2).shape[0]
    side = int((places - 1) ** 0.5)
    if places != 1 + side * side:
        raise ValueError(f"{prefix}positional_embedding must have 1 + h * h rows, a patch each, got {places}")
    layer = f"{prefix}transformer.resblocks."
    config = transformers.CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=need(state, f"{layer}0.mlp.c_fc.weight", 2).shape[0],
        num_hidden_layers=count(state, rf"{layer}(\w+)\.", _MOST_LAYERS),
        num_attention_heads=width // 64,
        image_size=side * patch,
        patch_size=patch,
        hidden_act="quick_gelu",
    )
    return transformers.CLIPVisionModel(config)


def _sizes(state: State, prefix: str = "") -> tuple[int, int, int, range]:
    """Of an adapter: channels before and after it, the length of the condition, and layers with a prompt."""
    bridge, out = need(state, f"{prefix}FBlocks.0.conv1.weight", 4), need(state, f"{prefix}conv.weight", 4)
    prompts = need(state, f"{prefix}fc_prompt.weight", 2)
    number, rest = divmod(prompts.shape[0], out.shape[1])
    if number == 0 or rest:
        width = out.shape[1]
        raise ValueError(f"{prefix}fc_prompt must have {width} rows for each prompt, got {prompts.shape[0]}")
    return bridge.shape[1], out.shape[0], prompts.shape[1], range(1, 1 + number)


def _build_adapter(state: State) -> CLIPAdapter:
    channels, out_channels, cond_dim, prompted = _sizes(state)
    return CLIPAdapter(
        _vision(state, _CLIP), channels, out_channels, cond_dim,
        hidden_channels=need(state, "FBlocks.0.conv1.weight", 4).shape[0], prompted=prompted,
    )  # fmt: skip


def _build_generator(state: State) -> GALIPGenerator:
    channels, out_channels, cond_dim, prompted = _sizes(state, "mapping.")
    z_dim = need(state, "fc_code.weight", 2).shape[1]
    return GALIPGenerator(
        _vision(state, f"mapping.{_CLIP}"), out_channels // 8, z_dim, cond_dim - z_dim,
        bridge_channels=channels, prompted=prompted,
    )  # fmt: skip


def _build_bridge(state: State) -> BridgeBlock:
    conv1, conv2 = need(state, "conv1.weight", 4), need(state, "conv2.weight", 4)
    mlp = need(state, "fuse1.affine0.fc_gamma.linear1.weight", 2)
    return BridgeBlock(conv1.shape[1], conv1.shape[0], conv2.shape[0], mlp.shape[1])


def _clip_block(block: CLIPBlock) -> dict[str, str]:
    return {"gamma": "gamma", "beta": "beta", "conv_r.": "residual.", "conv_s.": "shortcut."}


def _clip_block_unused(block: CLIPBlock) -> dict[str, tuple[int, ...]]:
    width = block.out_channels
    learned = not isinstance(block.shortcut, nn.Identity)
    return {} if learned else {"conv_s.weight": (width, width, 1, 1), "conv_s.bias": (width,)}


def _build_clip_block(state: State) -> CLIPBlock:
    conv = need(state, "conv_r.0.weight", 4)
    return CLIPBlock(conv.shape[1], conv.shape[0], extracts="beta" in state)


def _blocks(model: GALIPDiscriminator) -> dict[str, tuple[str, CLIPBlock]]:
    """Of a discriminator, by published prefixes: ours, and the block."""
    blocks = {f"netD.DBlocks.{i}.": (f"blocks.{i}.", block) for i, block in enumerate(model.blocks)}
    return cast(dict[str, tuple[str, CLIPBlock]], blocks) | {"netD.main.": ("last.", model.last)}


def _discriminator(model: GALIPDiscriminator) -> dict[str, str]:
    names = {"netC.joint_conv.": "head.layers."}
    for theirs, (ours, block) in _blocks(model).items():
        names |= within(theirs, ours, _clip_block(block))
    return names


def _discriminator_unused(model: GALIPDiscriminator) -> dict[str, tuple[int, ...]]:
    parts = ((theirs, _clip_block_unused(block)) for theirs, (_, block) in _blocks(model).items())
    return {theirs + key: shape for theirs, entries in parts for key, shape in entries.items()}


def _build_discriminator(state: State) -> GALIPDiscriminator:
    if "main.gamma" in state:
        raise ValueError("GALIP has a second network, netC; give its state dict as head")
    last = need(state, "netD.main.conv_r.0.weight", 4)
    joint, score = need(state, "netC.joint_conv.0.weight", 4), need(state, "netC.joint_conv.2.weight", 4)
    return GALIPDiscriminator(
        last.shape[1], last.shape[0], joint.shape[1] - last.shape[0], joint.shape[0],
        maps=1 + count(state, r"netD\.DBlocks\.(\w+)\."), size=score.shape[2] + joint.shape[2] - 1,
    )  # fmt: skip


FORMATS = (
    Format(
        role="generator", name="GALIP", kind=GALIPGenerator,
        knows=has(f"mapping.{_CLIP}class_embedding"), build=_build_generator, names=_generator,
        unused=_generator_unused, read=_apart, write=_together,
    ),
    Format(
        role="discriminator", name="GALIP", kind=GALIPDiscriminator,
        knows=lambda state: any(f"{prefix}main.gamma" in state for prefix in ("", "netD.")),
        build=_build_discriminator, names=_discriminator, unused=_discriminator_unused,
    ),
    Format(
        role="layer", name="GALIP's adapter", kind=CLIPAdapter,
        knows=has(f"{_CLIP}class_embedding", "fc_prompt.weight"), build=_build_adapter, names=_adapter,
        unused=_adapter_unused, read=_apart, write=_together,
    ),
    Format(
        role="layer", name="GALIP's bridge block", kind=BridgeBlock,
        knows=has("conv1.weight", "fuse1.affine0.fc_gamma.linear1.weight"), build=_build_bridge, names=_bridge,
    ),
    Format(
        role="layer", name="GALIP's block of a discriminator", kind=CLIPBlock,
        knows=lambda state: "conv_r.0.weight" in state and state["conv_r.0.weight"].shape[2:] == (3, 3),
        build=_build_clip_block, names=_clip_block, unused=_clip_block_unused,
    ),
)  # fmt: skip

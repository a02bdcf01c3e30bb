"""The keys of published checkpoints, and which entry of ours each of them is."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ..encoders import InceptionImageEncoder, LSTMTextEncoder
from ..layers import DownBlock
from ..models import DFGenerator, MatchingAwareDiscriminator, SSAGenerator


def _names(model: nn.Module) -> dict[str, str]:
    """Prefixes of published keys to prefixes of ours; what follows a prefix is the same in both."""
    if isinstance(model, SSAGenerator):
        names = {"fc.": "fc.", "conv_img.": "to_image."}
        for i in range(len(model.blocks)):
            # The published code keeps the predictor of a block's mask in the block before it.
            names["conv_mask." if i == 0 else f"block{i - 1}.conv_mask."] = f"blocks.{i}.mask_predictor.layers."
            names |= {f"block{i}.gamma": f"blocks.{i}.gamma", f"block{i}.c_sc.": f"blocks.{i}.shortcut."}
            for j, (conv, norm) in enumerate((("c1", "affine0"), ("c2", "affine2")), start=1):
                names[f"block{i}.{conv}."] = f"blocks.{i}.conv{j}."
                names[f"block{i}.{norm}.batch_norm2d."] = f"blocks.{i}.norm{j}.normalize."
                for mlp in ("gamma", "beta"):
                    names[f"block{i}.{norm}.fc_{mlp}.linear1."] = f"blocks.{i}.norm{j}.{mlp}.0."
                    names[f"block{i}.{norm}.fc_{mlp}.linear2."] = f"blocks.{i}.norm{j}.{mlp}.2."
        return names
    if isinstance(model, DFGenerator):
        return _names_of_df_generator(model)
    if isinstance(model, MatchingAwareDiscriminator):
        head = "netC.joint_conv." if model.max_width == 8 else "COND_DNET.joint_conv."
        names = {_trunk(model, "conv_img."): "from_image.", head: "head.layers."}
        for i in range(len(model.blocks)):
            block = _block(model, i)
            names |= {
                f"{block}.gamma": f"blocks.{i}.gamma",
                f"{block}.conv_r.": f"blocks.{i}.residual.",
                f"{block}.conv_s.": f"blocks.{i}.shortcut.",
            }
        return names
    if isinstance(model, LSTMTextEncoder):
        return {"encoder.": "embedding.", "rnn.": "rnn."}
    if isinstance(model, InceptionImageEncoder):
        return {"emb_features.": "emb_features.", "emb_cnn_code.": "emb_cnn_code.", "": "trunk."}
    raise TypeError(
        "published checkpoints exist for SSAGenerator, DFGenerator, MatchingAwareDiscriminator, LSTMTextEncoder "
        f"and InceptionImageEncoder, got {type(model).__name__}"
    )


def _names_of_df_generator(model: DFGenerator) -> dict[str, str]:
    names = {"fc.": "fc.", "to_rgb." if model.version == "2022" else "conv_img.": "to_image."}
    for i in range(len(model.blocks)):
        block = f"GBlocks.{i}" if model.version == "2022" else f"block{i}"
        names |= {f"{block}.gamma": f"blocks.{i}.gamma", f"{block}.c_sc.": f"blocks.{i}.shortcut."}
        for fuse in (1, 2):
            names[f"{block}.c{fuse}."] = f"blocks.{i}.conv{fuse}."
            for pair in (0, 1):
                affine = f"fuse{fuse}.affine{pair}" if model.version == "2022" else f"affine{2 * fuse - 2 + pair}"
                for mlp in ("gamma", "beta"):
                    ours = f"blocks.{i}.fuse{fuse}.{mlp}s.{pair}"
                    names[f"{block}.{affine}.fc_{mlp}.linear1."] = f"{ours}.0."
                    names[f"{block}.{affine}.fc_{mlp}.linear2."] = f"{ours}.2."
    return names


def _trunk(model: MatchingAwareDiscriminator, key: str) -> str:
    """A published key of the part before the head, which DF-GAN's code of 2022 makes a network of its own."""
    return f"netD.{key}" if model.max_width == 8 else key


def _block(model: MatchingAwareDiscriminator, i: int) -> str:
    return _trunk(model, f"DBlocks.{i}") if model.max_width == 8 else f"block{i}"


def keys(model: nn.Module) -> dict[str, str]:
    """Our keys by published ones."""
    published = {ours: published for published, ours in _names(model).items()}
    return {_rename(key, published): key for key in model.state_dict()}


def unused(model: nn.Module) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Published entries that hold nothing: shape and dtype by key."""
    entries: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    if isinstance(model, MatchingAwareDiscriminator):
        for i, block in enumerate(model.blocks):
            if isinstance(block, DownBlock) and isinstance(block.shortcut, nn.Identity):
                width = block.out_channels
                entries[f"{_block(model, i)}.conv_s.weight"] = ((width, width, 1, 1), torch.float32)
                entries[f"{_block(model, i)}.conv_s.bias"] = ((width,), torch.float32)
    return entries


def _rename(key: str, prefixes: Mapping[str, str]) -> str:
    """``key`` with its longest matching prefix replaced."""
    prefix = max((prefix for prefix in prefixes if key.startswith(prefix)), key=len)
    return prefixes[prefix] + key.removeprefix(prefix)

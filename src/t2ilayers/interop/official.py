"""Published SSA-GAN and DAMSM checkpoints, in and out.

The published files are ``netG_E.pth``, ``netD_E.pth``, ``text_encoderE.pth`` and ``image_encoderE.pth``. Each
loader takes a path or a state dict, with or without the ``module.`` prefix of a data-parallel wrapper, infers
the sizes from the shapes, and accounts for every key: one that is unknown, missing or misshapen is an error
that names it.

Three kinds of entries hold nothing and are dropped: the batch counters of the conditional norms, and the 1x1
shortcuts of discriminator blocks whose width does not change, which the published code never calls.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..encoders import InceptionImageEncoder, LSTMTextEncoder
from ..layers import DownBlock
from ..models import MatchingAwareDiscriminator, SSAGenerator

__all__ = ["export", "load_discriminator", "load_generator", "load_image_encoder", "load_text_encoder"]

Source = str | os.PathLike[str] | Mapping[str, Tensor]
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def load_generator(source: Source) -> SSAGenerator:
    """An :class:`~t2ilayers.SSAGenerator` with published weights (``netG_E.pth``), in evaluation mode.

    Args:
        source: a path, or a state dict such as ``fc.weight (128*ngf, z_dim)``.

    Raises:
        ValueError: an unknown, missing or misshapen key, or a file that is no state dict of tensors.
        FileNotFoundError: no such file.

    Example:
        >>> generator = SSAGenerator(image_size=32, ngf=4)
        >>> published = {"module." + key: value for key, value in export(generator).items()}
        >>> load_generator(published).image_size
        32
    """
    state = _read(source)
    fc = _need(state, "fc.weight", 2)
    mask = _need(state, "conv_mask.0.weight", 4)
    mlp = _need(state, "block0.affine0.fc_gamma.linear1.weight", 2)
    model = SSAGenerator(4 * 2 ** (_blocks(state) - 1), fc.shape[0] // 128, fc.shape[1], mlp.shape[1],
                         mask_channels=mask.shape[0])  # fmt: skip
    return _fill(model, state)


def load_discriminator(source: Source) -> MatchingAwareDiscriminator:
    """A :class:`~t2ilayers.MatchingAwareDiscriminator` with published weights (``netD_E.pth``), eval mode.

    Args:
        source: a path, or a state dict such as ``conv_img.weight (ndf, 3, 3, 3)``.

    Raises:
        ValueError, FileNotFoundError: as :func:`load_generator`.

    Example:
        >>> load_discriminator(export(MatchingAwareDiscriminator(image_size=64, ndf=4))).image_size
        64
    """
    state = _read(source)
    blocks = _blocks(state)
    first, joint = _need(state, "conv_img.weight", 4), _need(state, "COND_DNET.joint_conv.0.weight", 4)
    ndf = first.shape[0]
    model = MatchingAwareDiscriminator(4 * 2**blocks, ndf, joint.shape[1] - ndf * min(16, 2**blocks))
    return _fill(model, state)


def load_text_encoder(source: Source) -> LSTMTextEncoder:
    """An :class:`~t2ilayers.encoders.LSTMTextEncoder` with published weights (``text_encoderE.pth``), eval mode.

    Args:
        source: a path, or a state dict such as ``encoder.weight (vocab_size, embed_dim)``.

    Raises:
        ValueError, FileNotFoundError: as :func:`load_generator`.

    Example:
        >>> load_text_encoder(export(LSTMTextEncoder(50, embed_dim=8, cond_dim=16))).embedding.num_embeddings
        50
    """
    state = _read(source)
    embedding, hidden = _need(state, "encoder.weight", 2), _need(state, "rnn.weight_hh_l0", 2)
    return _fill(LSTMTextEncoder(embedding.shape[0], embedding.shape[1], 2 * hidden.shape[1]), state)


def load_image_encoder(source: Source) -> InceptionImageEncoder:
    """An :class:`~t2ilayers.encoders.InceptionImageEncoder` with published weights (``image_encoderE.pth``).

    Args:
        source: a path, or a state dict such as ``emb_features.weight (cond_dim, 768, 1, 1)``.

    Raises:
        ValueError, FileNotFoundError: as :func:`load_generator`.

    Example:
        >>> load_image_encoder(export(InceptionImageEncoder(cond_dim=16))).training
        False
    """
    state = _read(source)
    return _fill(InceptionImageEncoder(_need(state, "emb_cnn_code.weight", 2).shape[0]), state)


def export(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of ``model`` under the published keys, which the published code loads strictly.

    Entries that the published modules hold and never use are zeros.

    Args:
        model: a generator, discriminator, text encoder or Inception image encoder of this library.

    Returns:
        Published keys to tensors, e.g. ``fc.weight (128*ngf, z_dim)`` and ``block0.c1.weight (C, C, 3, 3)``.
        They share memory with the model.

    Raises:
        TypeError: another kind of module.

    Example:
        >>> sorted(export(LSTMTextEncoder(50, embed_dim=8, cond_dim=16)))[0]
        'encoder.weight'
    """
    names = {ours: published for published, ours in _names(model).items()}
    state = {_rename(key, names): value for key, value in model.state_dict().items()}
    return state | {key: torch.zeros(shape, dtype=dtype) for key, (shape, dtype) in _unused(model).items()}


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
                names[f"block{i}.{norm}.batch_norm2d."] = f"blocks.{i}.norm{j}."
                for mlp in ("gamma", "beta"):
                    names[f"block{i}.{norm}.fc_{mlp}.linear1."] = f"blocks.{i}.norm{j}.{mlp}.0."
                    names[f"block{i}.{norm}.fc_{mlp}.linear2."] = f"blocks.{i}.norm{j}.{mlp}.2."
        return names
    if isinstance(model, MatchingAwareDiscriminator):
        names = {"conv_img.": "from_image.", "COND_DNET.joint_conv.": "head.layers."}
        for i in range(len(model.blocks)):
            names |= {
                f"block{i}.gamma": f"blocks.{i}.gamma",
                f"block{i}.conv_r.": f"blocks.{i}.residual.",
                f"block{i}.conv_s.": f"blocks.{i}.shortcut.",
            }
        return names
    if isinstance(model, LSTMTextEncoder):
        return {"encoder.": "embedding.", "rnn.": "rnn."}
    if isinstance(model, InceptionImageEncoder):
        return {"emb_features.": "emb_features.", "emb_cnn_code.": "emb_cnn_code.", "": "trunk."}
    raise TypeError(
        "published checkpoints exist for SSAGenerator, MatchingAwareDiscriminator, LSTMTextEncoder and "
        f"InceptionImageEncoder, got {type(model).__name__}"
    )


def _unused(model: nn.Module) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Published entries that hold nothing: shape and dtype by key."""
    unused: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    if isinstance(model, SSAGenerator):
        for i in range(len(model.blocks)):
            for norm in ("affine0", "affine2"):
                unused[f"block{i}.{norm}.batch_norm2d.num_batches_tracked"] = ((), torch.int64)
    if isinstance(model, MatchingAwareDiscriminator):
        for i, block in enumerate(model.blocks):
            if isinstance(block, DownBlock) and isinstance(block.shortcut, nn.Identity):
                width = block.out_channels
                unused[f"block{i}.conv_s.weight"] = ((width, width, 1, 1), torch.float32)
                unused[f"block{i}.conv_s.bias"] = ((width,), torch.float32)
    return unused


def _rename(key: str, prefixes: Mapping[str, str]) -> str:
    """``key`` with its longest matching prefix replaced."""
    prefix = max((prefix for prefix in prefixes if key.startswith(prefix)), key=len)
    return prefixes[prefix] + key.removeprefix(prefix)


def _read(source: Source) -> dict[str, Tensor]:
    state: object = source
    if isinstance(source, str | os.PathLike):
        try:
            state = torch.load(source, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise ValueError(f"{os.fspath(source)} is no checkpoint of plain tensors: {error}") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(
            "a published checkpoint is a state dict of tensors, got "
            + (
                type(state).__name__
                if not isinstance(state, Mapping)
                else f"a mapping with keys {sorted(state)[:5]}"
            )
        )
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def _need(state: Mapping[str, Tensor], key: str, dims: int) -> Tensor:
    if key not in state:
        raise ValueError(
            f"missing key {key}: this is not the checkpoint asked for; it has {sorted(state)[:5]} ..."
        )
    if state[key].dim() != dims:
        raise ValueError(f"misshapen key {key}: must have {dims} dimensions, got {tuple(state[key].shape)}")
    return state[key]


def _blocks(state: Mapping[str, Tensor]) -> int:
    numbers = {key.split(".")[0] for key in state if key.startswith("block")}
    return len(numbers)


def _fill(model: ModuleT, state: Mapping[str, Tensor]) -> ModuleT:
    expected = {key: tuple(value.shape) for key, value in export(model).items()}
    unused = _unused(model)
    problems = [f"unknown key {key}" for key in state if key not in expected]
    problems += [f"missing key {key}" for key in expected if key not in state and key not in unused]
    problems += [
        f"misshapen key {key}: must be {expected[key]}, got {tuple(value.shape)}"
        for key, value in state.items()
        if key in expected and tuple(value.shape) != expected[key]
    ]
    if problems:
        more = f" (+{len(problems) - 10} more)" if len(problems) > 10 else ""
        raise ValueError(f"this is no checkpoint of {type(model).__name__}: " + "; ".join(problems[:10]) + more)
    names = _names(model)
    model.load_state_dict({_rename(key, names): value for key, value in state.items() if key not in unused})
    return model.eval()

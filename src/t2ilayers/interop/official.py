"""Published SSA-GAN and DAMSM checkpoints, in and out.

The published files are ``netG_E.pth``, ``netD_E.pth``, ``text_encoderE.pth`` and ``image_encoderE.pth``. Each
loader takes a path or a state dict, with or without the ``module.`` prefix of a data-parallel wrapper, infers
the sizes from the shapes, and accounts for every key: one that is unknown, missing or misshapen is an error
that names it.

Entries that hold nothing are dropped: the 1x1 shortcuts of discriminator blocks whose width does not change, which
the published code never calls.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from .._files import some
from .._weights import fill, read_torch, state_dict
from ..encoders import InceptionImageEncoder, LSTMTextEncoder
from ..layers import DownBlock
from ..models import MatchingAwareDiscriminator, SSAGenerator

__all__ = ["export", "load_discriminator", "load_generator", "load_image_encoder", "load_text_encoder"]

Source = str | os.PathLike[str] | Mapping[str, Tensor]
ModuleT = TypeVar("ModuleT", bound=nn.Module)

_MOST_BLOCKS = 10  # pictures of 2048 px


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

    def build(state: Mapping[str, Tensor]) -> SSAGenerator:
        fc = _need(state, "fc.weight", 2)
        mask = _need(state, "conv_mask.0.weight", 4)
        mlp = _need(state, "block0.affine0.fc_gamma.linear1.weight", 2)
        size = 4 * 2 ** (_blocks(state) - 1)
        return SSAGenerator(size, fc.shape[0] // 128, fc.shape[1], mlp.shape[1], mask_channels=mask.shape[0])

    return _load(source, build)


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

    def build(state: Mapping[str, Tensor]) -> MatchingAwareDiscriminator:
        blocks, ndf = _blocks(state), _need(state, "conv_img.weight", 4).shape[0]
        joint = _need(state, "COND_DNET.joint_conv.0.weight", 4)
        return MatchingAwareDiscriminator(4 * 2**blocks, ndf, joint.shape[1] - ndf * min(16, 2**blocks))

    return _load(source, build)


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

    def build(state: Mapping[str, Tensor]) -> LSTMTextEncoder:
        embedding, hidden = _need(state, "encoder.weight", 2), _need(state, "rnn.weight_hh_l0", 2)
        return LSTMTextEncoder(embedding.shape[0], embedding.shape[1], 2 * hidden.shape[1])

    return _load(source, build)


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
    return _load(source, lambda state: InceptionImageEncoder(_need(state, "emb_cnn_code.weight", 2).shape[0]))


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
    state = {published: model.state_dict()[ours] for published, ours in _keys(model).items()}
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
                names[f"block{i}.{norm}.batch_norm2d."] = f"blocks.{i}.norm{j}.normalize."
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


def _keys(model: nn.Module) -> dict[str, str]:
    """Our keys by published ones."""
    published = {ours: published for published, ours in _names(model).items()}
    return {_rename(key, published): key for key in model.state_dict()}


def _unused(model: nn.Module) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Published entries that hold nothing: shape and dtype by key."""
    unused: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
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


def _load(source: Source, build: Callable[[Mapping[str, Tensor]], ModuleT]) -> ModuleT:
    """The module that ``build`` makes for the shapes of ``source``, with its weights."""
    if isinstance(source, str | os.PathLike):
        content, name = read_torch(source), f"{os.fspath(source)}: "
    else:
        content, name = source, ""
    try:
        state = {key.removeprefix("module."): value for key, value in state_dict(content).items()}
        try:
            with torch.device("meta"):
                model = build(state)
        except (ArithmeticError, RuntimeError, TypeError) as error:
            raise ValueError(f"its shapes are those of no network: {error!s:.200}") from error
        unused = {key: shape for key, (shape, _) in _unused(model).items()}
        try:
            return fill(model, state, names=_keys(model), unused=unused)
        except ValueError as error:
            raise ValueError(f"this is no checkpoint of {type(model).__name__}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{name}{error}") from error


def _need(state: Mapping[str, Tensor], key: str, dims: int) -> Tensor:
    if key not in state:
        raise ValueError(
            f"missing key {key}: this is not the checkpoint asked for; it has {some(sorted(state), most=5)}"
        )
    if state[key].dim() != dims:
        raise ValueError(f"misshapen key {key}: must have {dims} dimensions, got {tuple(state[key].shape)}")
    return state[key]


def _blocks(state: Mapping[str, Tensor]) -> int:
    numbers = {key.split(".")[0] for key in state if key.startswith("block")}
    if len(numbers) > _MOST_BLOCKS:
        raise ValueError(f"a checkpoint must have at most {_MOST_BLOCKS} blocks, got {len(numbers)}")
    return len(numbers)

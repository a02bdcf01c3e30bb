"""Published SSA-GAN, DF-GAN and DAMSM checkpoints, in and out.

The published files are ``netG_E.pth``, ``netD_E.pth``, ``text_encoderE.pth`` and ``image_encoderE.pth``. Each
loader takes a path or a state dict, with or without the ``module.`` prefix of a data-parallel wrapper, infers
the sizes from the shapes, and accounts for every key: one that is unknown, missing or misshapen is an error
that names it.

Entries that hold nothing are dropped: the 1x1 shortcuts of discriminator blocks whose width does not change, which
the published code never calls.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from .._files import some
from .._weights import fill, read_torch, state_dict
from ..encoders import InceptionImageEncoder, LSTMTextEncoder
from ..models import DFGenerator, MatchingAwareDiscriminator, SSAGenerator
from ._published import keys, unused

__all__ = ["export", "load_discriminator", "load_generator", "load_image_encoder", "load_text_encoder"]

Source = str | os.PathLike[str] | Mapping[str, Tensor]
ModuleT = TypeVar("ModuleT", bound=nn.Module)

_BLOCK = re.compile(r"(?:block|GBlocks\.|netD\.DBlocks\.)(\w+)\.")
_MOST_BLOCKS = 10  # pictures of 2048 px


def load_generator(source: Source) -> SSAGenerator | DFGenerator:
    """A generator with published weights, in evaluation mode; whose it is, its keys tell.

    SSA-GAN's ``netG_E.pth`` becomes an :class:`~t2ilayers.SSAGenerator`; DF-GAN's ``netG_E.pth`` of 2020 and
    ``state_epoch_E.pth`` of 2022 become a :class:`~t2ilayers.models.DFGenerator`.

    Args:
        source: a path, or a state dict such as ``fc.weight (128*ngf, z_dim)``, alone or as ``{"model": {"netG":
            state}}``.

    Raises:
        ValueError: an unknown, missing or misshapen key, or a file that is no state dict of tensors.
        FileNotFoundError: no such file.

    Example:
        >>> generator = SSAGenerator(image_size=32, ngf=4)
        >>> published = {"module." + key: value for key, value in export(generator).items()}
        >>> load_generator(published).image_size
        32
    """

    def build(state: Mapping[str, Tensor]) -> SSAGenerator | DFGenerator:
        fc = _need(state, "fc.weight", 2)
        ngf, z_dim = fc.shape[0] // 128, fc.shape[1]
        if any(key.startswith("GBlocks.") for key in state):
            mlp = _need(state, "GBlocks.0.fuse1.affine0.fc_gamma.linear1.weight", 2)
            return DFGenerator(4 * 2 ** _blocks(state), ngf, z_dim, mlp.shape[1] - z_dim)
        mlp = _need(state, "block0.affine0.fc_gamma.linear1.weight", 2)
        size = 4 * 2 ** (_blocks(state) - 1)
        if "block0.affine1.fc_gamma.linear1.weight" in state:
            return DFGenerator(size, ngf, z_dim, mlp.shape[1], version="2020")
        mask = _need(state, "conv_mask.0.weight", 4)
        return SSAGenerator(size, ngf, z_dim, mlp.shape[1], mask_channels=mask.shape[0])

    return _load(source, build, "netG")


def load_discriminator(source: Source, head: Source | None = None) -> MatchingAwareDiscriminator:
    """A :class:`~t2ilayers.MatchingAwareDiscriminator` with published weights, in evaluation mode.

    SSA-GAN's, RAT-GAN's and DF-GAN's of 2020 are in one file, ``netD_E.pth``. DF-GAN's code of 2022 has two
    networks, ``netD`` and ``netC``, both in ``state_epoch_E.pth``.

    Args:
        source: a path, or a state dict such as ``conv_img.weight (ndf, 3, 3, 3)``, alone, as ``{"model": {"netD":
            state, "netC": state}}``, or as :func:`export` gives it.
        head: the second network, if ``source`` is the first alone.

    Raises:
        ValueError, FileNotFoundError: as :func:`load_generator`.

    Example:
        >>> load_discriminator(export(MatchingAwareDiscriminator(image_size=64, ndf=4))).image_size
        64
    """

    def build(state: Mapping[str, Tensor]) -> MatchingAwareDiscriminator:
        of_2022 = any(key.startswith("netD.") for key in state)
        trunk, joint = ("netD.", "netC.") if of_2022 else ("", "COND_DNET.")
        if "DBlocks.0.gamma" in state:
            raise ValueError("DF-GAN's code of 2022 has a second network, netC; give its state dict as head")
        blocks, most = _blocks(state), 8 if of_2022 else 16
        ndf = _need(state, f"{trunk}conv_img.weight", 4).shape[0]
        channels = _need(state, f"{joint}joint_conv.0.weight", 4).shape[1]
        cond_dim = channels - ndf * min(most, 2**blocks)
        return MatchingAwareDiscriminator(4 * 2**blocks, ndf, cond_dim, max_width=most)

    return _load(source, build, "netD", head)


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
        model: a generator, discriminator, text encoder or Inception image encoder of this library. Keys of a
            discriminator of DF-GAN's code of 2022 (``max_width=8``) begin with ``netD.`` and ``netC.``.

    Returns:
        Published keys to tensors, e.g. ``fc.weight (128*ngf, z_dim)`` and ``block0.c1.weight (C, C, 3, 3)``.
        They share memory with the model.

    Raises:
        TypeError: another kind of module.

    Example:
        >>> sorted(export(LSTMTextEncoder(50, embed_dim=8, cond_dim=16)))[0]
        'encoder.weight'
    """
    state = {published: model.state_dict()[ours] for published, ours in keys(model).items()}
    device = next(model.parameters()).device
    return state | {
        key: torch.zeros(shape, dtype=dtype, device=device) for key, (shape, dtype) in unused(model).items()
    }


def _load(
    source: Source, build: Callable[[Mapping[str, Tensor]], ModuleT], network: str = "", head: Source | None = None
) -> ModuleT:
    """The module that ``build`` makes for the shapes of ``source``, with its weights."""
    name = f"{os.fspath(source)}: " if isinstance(source, str | os.PathLike) else ""
    try:
        state = _state(source, network, head)
        try:
            with torch.device("meta"):
                model = build(state)
        except (ArithmeticError, RuntimeError, TypeError) as error:
            raise ValueError(f"its shapes are those of no network: {error!s:.200}") from error
        spare = {key: shape for key, (shape, _) in unused(model).items()}
        try:
            return fill(model, state, names=keys(model), unused=spare)
        except ValueError as error:
            raise ValueError(f"this is no checkpoint of {type(model).__name__}: {error}") from error
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(name) else f"{name}{error}") from error


def _state(source: Source, network: str, head: Source | None = None) -> dict[str, Tensor]:
    """The state dict of a network; a discriminator of two networks has them as ``netD.`` and ``netC.``."""
    content = read_torch(source) if isinstance(source, str | os.PathLike) else source
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if isinstance(content, Mapping) and isinstance(content.get(network), Mapping):
        if network == "netD" and head is None:
            head = content.get("netC")
        content = content[network]
    state = {key.removeprefix("module."): value for key, value in state_dict(content).items()}
    if head is None:
        return state
    parts = {"netD.": state, "netC.": _state(head, "netC")}
    return {part + key: value for part, entries in parts.items() for key, value in entries.items()}


def _need(state: Mapping[str, Tensor], key: str, dims: int) -> Tensor:
    if key not in state:
        raise ValueError(
            f"missing key {key}: this is not the checkpoint asked for; it has {some(sorted(state), most=5)}"
        )
    if state[key].dim() != dims:
        raise ValueError(f"misshapen key {key}: must have {dims} dimensions, got {tuple(state[key].shape)}")
    return state[key]


def _blocks(state: Mapping[str, Tensor]) -> int:
    numbers = {match[1] for key in state if (match := _BLOCK.match(key))}
    if len(numbers) > _MOST_BLOCKS:
        raise ValueError(f"a checkpoint must have at most {_MOST_BLOCKS} blocks, got {len(numbers)}")
    return len(numbers)

"""Checkpoints of published code, in and out: networks, blocks and layers.

Each loader takes a path or a state dict, with or without the ``module.`` prefix of a data-parallel wrapper, knows
by the keys whose it is, infers the sizes from the shapes, and accounts for every key: one that is unknown, missing
or misshapen is an error that names it.

Entries that hold nothing are dropped, such as the 1x1 shortcuts of discriminator blocks whose width does not
change, which the published code never calls.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._weights import fill, read_torch, state_dict
from ..encoders import InceptionImageEncoder, LSTMTextEncoder
from ._format import Role
from ._registry import format_of, format_of_state

__all__ = [
    "export",
    "load_discriminator",
    "load_generator",
    "load_image_encoder",
    "load_layer",
    "load_text_encoder",
]

Source = str | os.PathLike[str] | Mapping[str, Tensor]


def load_generator(source: Source, **untold: Any) -> nn.Module:
    """A generator with published weights, in evaluation mode; whose it is, its keys tell.

    =====================================  ====================================================
    file                                   becomes
    =====================================  ====================================================
    SSA-GAN ``netG_E.pth``                 :class:`~t2ilayers.SSAGenerator`
    DF-GAN of 2022 ``state_epoch_E.pth``   :class:`~t2ilayers.models.DFGenerator`
    DF-GAN of 2020 ``netG_E.pth``          the same
    RAT-GAN ``netG_E.pth``                 :class:`~t2ilayers.models.RATGenerator`
    GALIP ``state_epoch_E.pth``            :class:`~t2ilayers.models.GALIPGenerator`
    SPADE ``E_net_G.pth``                  :class:`~t2ilayers.models.SPADEGenerator`
    BigGAN-PyTorch ``G.pth``, ``G_ema``    :class:`~t2ilayers.models.BigGANGenerator`
    mimicry: cGAN-PD, SNGAN, SAGAN         :class:`~t2ilayers.models.ProjectionGenerator`
    =====================================  ====================================================

    Args:
        source: a path, or a state dict such as ``fc.weight (128*ngf, z_dim)``, alone or as ``{"model": {"netG":
            state}}``.
        untold: what keys and shapes cannot tell: ``affines=3`` for RAT-GAN's form of flowers, ``image_size`` and
            ``upsampling`` of SPADE.

    Raises:
        ValueError: keys of no published generator, an unknown, missing or misshapen key, an option that the
            network does not have, or a file that is no state dict of tensors.
        FileNotFoundError: no such file.
        ImportError: GALIP's generator holds a CLIP, and transformers (extra ``clip``) is not installed.

    Example:
        >>> from t2ilayers import SSAGenerator
        >>> generator = SSAGenerator(image_size=32, ngf=4)
        >>> published = {
        ...     "module." + key: value for key, value in export(generator).items()
        ... }
        >>> load_generator(published).image_size
        32
    """
    return _load(source, "generator", untold, "netG")


def load_discriminator(source: Source, head: Source | None = None, **untold: Any) -> nn.Module:
    """A discriminator with published weights, in evaluation mode; whose it is, its keys tell.

    SSA-GAN's, RAT-GAN's and DF-GAN's of 2020 are in one file, ``netD_E.pth``. DF-GAN's code of 2022 has two
    networks, ``netD`` and ``netC``, both in ``state_epoch_E.pth``. All become a
    :class:`~t2ilayers.MatchingAwareDiscriminator`. GALIP's two become a
    :class:`~t2ilayers.models.GALIPDiscriminator`, SPADE's ``E_net_D.pth`` a
    :class:`~t2ilayers.models.MultiscaleDiscriminator`, BigGAN's ``D.pth`` a
    :class:`~t2ilayers.models.BigGANDiscriminator`, mimicry's a :class:`~t2ilayers.models.ProjectionDiscriminator`.

    Args:
        source: a path, or a state dict such as ``conv_img.weight (ndf, 3, 3, 3)``, alone, as ``{"model": {"netD":
            state, "netC": state}}``, or as :func:`export` gives it.
        head: the second network, if ``source`` is the first alone.
        untold: as of :func:`load_generator`.

    Raises:
        ValueError, FileNotFoundError: as :func:`load_generator`.

    Example:
        >>> from t2ilayers import MatchingAwareDiscriminator
        >>> load_discriminator(
        ...     export(MatchingAwareDiscriminator(image_size=64, ndf=4))
        ... ).image_size
        64
    """
    return _load(source, "discriminator", untold, "netD", head)


def load_layer(source: Source, **untold: Any) -> nn.Module:
    """A block or a layer with the published weights of one, in evaluation mode; which it is, its keys tell.

    Args:
        source: a path, or a state dict whose keys begin within the block, such as ``c1.weight (C_out, C_in, 3,
            3)``.
        untold: what keys and shapes cannot tell: ``upsample=False`` or ``size`` for a block of DF-GAN's code
            of 2022 or of GALIP, ``cond_dim`` for a head whose condition is not 256 long.

    Raises:
        ValueError, FileNotFoundError: as :func:`load_generator`.

    Example:
        >>> from t2ilayers.models import DFBlock
        >>> load_layer(export(DFBlock(8, 4, cond_dim=16))).conv1
        Conv2d(8, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    """
    return _load(source, "layer", untold)


def load_text_encoder(source: Source) -> LSTMTextEncoder:
    """An :class:`~t2ilayers.encoders.LSTMTextEncoder` with published weights (``text_encoderE.pth``), eval mode.

    Args:
        source: a path, or a state dict such as ``encoder.weight (vocab_size, embed_dim)``.

    Raises:
        ValueError, FileNotFoundError: as :func:`load_generator`.

    Example:
        >>> load_text_encoder(
        ...     export(LSTMTextEncoder(50, embed_dim=8, cond_dim=16))
        ... ).embedding.num_embeddings
        50
    """
    return _load(source, "text encoder", {})


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
    return _load(source, "image encoder", {})


def export(module: nn.Module) -> dict[str, Tensor]:
    """The state dict of ``module`` under the published keys, which the published code loads strictly.

    Entries that the published modules hold and never use are zeros.

    Args:
        module: a network, a block or a layer of this library that was published as one. Keys of a discriminator of
            DF-GAN's code of 2022 (``max_width=8``) begin with ``netD.`` and ``netC.``.

    Returns:
        Published keys to tensors, e.g. ``fc.weight (128*ngf, z_dim)`` and ``block0.c1.weight (C, C, 3, 3)``.
        They share memory with the module.

    Raises:
        TypeError: another kind of module.

    Example:
        >>> sorted(export(LSTMTextEncoder(50, embed_dim=8, cond_dim=16)))[0]
        'encoder.weight'
    """
    return format_of(module).export(module)


def _load(
    source: Source, role: Role, untold: Mapping[str, Any], network: str = "", head: Source | None = None
) -> Any:
    """The module of a role that ``source`` holds, with its weights."""
    name = f"{os.fspath(source)}: " if isinstance(source, str | os.PathLike) else ""
    try:
        state = _state(source, network, head)
        published = format_of_state(state, role)
        if others := untold.keys() - set(published.options):
            raise ValueError(
                f"{published.name} must be loaded without {sorted(others)[0]}, which it does not have"
            )
        try:
            with torch.device("meta"):
                module = published.build(state, **untold)
            entries = published.read(state)
        except (ArithmeticError, RuntimeError, TypeError) as error:
            raise ValueError(f"its shapes are those of no network: {error!s:.200}") from error
        unused = dict(published.unused(module))
        try:
            return fill(module, entries, names=published.keys(module), unused=unused)
        except ValueError as error:
            raise ValueError(f"this is no checkpoint of {type(module).__name__}: {error}") from error
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

"""Checkpoints of BigGAN's PyTorch code: whole networks, their blocks and layers."""

from __future__ import annotations

import re

from ..layers import ConditionalBatchNorm2d, ConditionalNorm2d, PreActivationBlock, SelfAttention2d, SpectralLinear
from ..models import BigGANBlock, BigGANDeepBlock, BigGANDiscriminator, BigGANGenerator
from ..models.biggan import SPECTRAL, convolution
from ._format import Format, State, count, has, need
from ._spectral import names, with_rows, without_rows

_STATISTICS = {"running_mean": "stored_mean", "running_var": "stored_var"}
_STEPPING = {"u": "u0", "sigma": "sv0"}
_BLOCK = r"blocks\.(\w+)\.0\."
_SIZES = {3: 32, 4: 64, 5: 128, 6: 256, 7: 512}  # by number of blocks


def _attention(state: State, sides: list[int]) -> list[int]:
    """The sides of maps after which there is an attention."""
    found = {int(match[1]) for key in state if (match := re.match(r"blocks\.(\d+)\.1\.", key))}
    return [sides[i] for i in sorted(found)]


def _build_generator(state: State) -> BigGANGenerator:
    blocks = count(state, _BLOCK)
    size = _SIZES.get(blocks, 0)
    rows, part = need(state, "linear.weight", 2).shape
    gain = need(state, "blocks.0.0.bn1.gain.weight", 2)
    attention = _attention(state, [8 * 2**i for i in range(blocks)])
    ngf = rows // 16 // (4 if size == 32 else 16)
    if "shared.weight" not in state:
        return BigGANGenerator(size, ngf, part, gain.shape[0], shared_dim=None, attention=attention)
    classes, shared = need(state, "shared.weight", 2).shape
    hierarchical = gain.shape[1] > shared
    return BigGANGenerator(
        size, ngf, part * (blocks + 1) if hierarchical else part, classes,
        shared_dim=shared, hierarchical=hierarchical, attention=attention,
    )  # fmt: skip


def _build_discriminator(state: State) -> BigGANDiscriminator:
    blocks = count(state, _BLOCK)
    size = _SIZES.get(blocks - 1, 0)
    sides = [16, 8, 8, 8] if size == 32 else [size // 2 ** min(i, blocks - 1) for i in range(1, blocks + 1)]
    classes, width = need(state, "embed.weight", 2).shape
    conv = need(state, "blocks.0.0.conv1.weight", 4)
    return BigGANDiscriminator(
        size, width // (4 if size == 32 else 16), classes,
        attention=_attention(state, sides), wide=conv.shape[0] != conv.shape[1],
    )  # fmt: skip


def _build_up(state: State, *, upsample: bool = True) -> BigGANBlock:
    conv, gain = need(state, "conv1.weight", 4), need(state, "bn1.gain.weight", 2)
    tables = "bn1.gain.u0" not in state
    return BigGANBlock(
        conv.shape[1], conv.shape[0], gain.shape[0] if tables else gain.shape[1],
        upsample=upsample and "conv_sc.bias" in state, condition="embedding" if tables else "linear",
    )  # fmt: skip


def _build_deep(state: State, *, upsample: bool = True) -> BigGANDeepBlock:
    conv, last = need(state, "conv1.weight", 4), need(state, "conv4.weight", 4)
    cond_dim = need(state, "bn1.gain.weight", 2).shape[1]
    return BigGANDeepBlock(conv.shape[1], last.shape[0], cond_dim, upsample=upsample)


def _build_down(state: State, *, first: bool = False, downsample: bool = True) -> PreActivationBlock:
    conv, last = need(state, "conv1.weight", 4), need(state, "conv2.weight", 4)
    return PreActivationBlock(
        conv.shape[1], last.shape[0], conv.shape[0],
        first=first, downsample=downsample and "conv_sc.bias" in state, convolution=convolution,
    )  # fmt: skip


def _build_norm(state: State, *, classes: bool = False) -> ConditionalNorm2d:
    """A norm of a condition; ``classes`` says that the weights are tables of one row per class."""
    weight = need(state, "gain.weight", 2)
    channels, cond_dim = weight.shape[::-1] if classes else weight.shape
    if "stored_var" not in state:
        return ConditionalNorm2d(channels, cond_dim, stats="none", condition="linear", bias=False)
    norm = ConditionalBatchNorm2d(
        channels, cond_dim, condition="embedding" if classes else "linear", bias=False, scale="residual"
    )
    if "gain.u0" in state:
        norm.gamma, norm.beta = (SpectralLinear(cond_dim, channels, bias=False, **SPECTRAL) for _ in range(2))
    return norm


def _build_attention(state: State) -> SelfAttention2d:
    return SelfAttention2d(need(state, "o.weight", 4).shape[0], **SPECTRAL)


def _of_generator(model: BigGANGenerator) -> dict[str, str]:
    prefixes = {"classes.": "shared.", "fc.": "linear.", "to_image.1.": "output_layer.2."}
    norm = {"": "", "weight": "gain", **_STATISTICS}
    prefixes |= {f"to_image.0.norm.{ours}": f"output_layer.0.{theirs}" for ours, theirs in norm.items()}
    return names(model, prefixes | _blocks(model), _STEPPING)


def _of_discriminator(model: BigGANDiscriminator) -> dict[str, str]:
    return names(model, {"head.linear.": "linear.", "head.embed.": "embed.", **_blocks(model)}, _STEPPING)


def _blocks(model: BigGANGenerator | BigGANDiscriminator) -> dict[str, str]:
    prefixes: dict[str, str] = {}
    for i in range(len(model.blocks)):
        prefixes |= _in_block(f"blocks.{i}.", f"blocks.{i}.0.")
    for key in model.attentions:
        prefixes |= _in_attention(f"attentions.{key}.", f"blocks.{key}.1.")
    return prefixes


def _in_block(ours: str = "", theirs: str = "") -> dict[str, str]:
    prefixes = {f"{ours}conv": f"{theirs}conv", f"{ours}shortcut.": f"{theirs}conv_sc."}
    for i in range(1, 5):
        prefixes |= _in_norm(f"{ours}norm{i}.", f"{theirs}bn{i}.")
    return prefixes


def _in_norm(ours: str = "", theirs: str = "") -> dict[str, str]:
    statistics = {f"{ours}normalize.{key}": theirs + stored for key, stored in {"": "", **_STATISTICS}.items()}
    return {f"{ours}gamma.": f"{theirs}gain.", f"{ours}beta.": f"{theirs}bias.", **statistics}


def _in_attention(ours: str = "", theirs: str = "") -> dict[str, str]:
    parts = {"query": "theta", "key": "phi", "value": "g", "out": "o", "gamma": "gamma"}
    return {ours + part: theirs + name for part, name in parts.items()}


def _read(state: State) -> State:
    return without_rows(state, "u0", "sv0")


def _write(state: State) -> State:
    """Without the counters of batch norms, which that code does not have."""
    entries = with_rows(state, "u0", "sv0")
    return {key: value for key, value in entries.items() if not key.endswith("num_batches_tracked")}


FORMATS = (
    Format(
        role="generator", name="BigGAN", kind=BigGANGenerator, knows=has("linear.u0", "blocks.0.0.bn1.stored_var"),
        build=_build_generator, names=_of_generator, read=_read, write=_write,
    ),
    Format(
        role="discriminator", name="BigGAN", kind=BigGANDiscriminator,
        knows=has("embed.u0", "blocks.0.0.conv1.u0"),
        build=_build_discriminator, names=_of_discriminator, read=_read, write=_write,
    ),
    Format(
        role="layer", name="BigGAN-deep's block", kind=BigGANDeepBlock, knows=has("bn1.stored_var", "conv4.u0"),
        build=_build_deep, names=lambda block: names(block, _in_block(), _STEPPING),
        options=("upsample",), read=_read, write=_write,
    ),
    Format(
        role="layer", name="BigGAN's block of a generator", kind=BigGANBlock,
        knows=has("bn1.stored_var", "conv1.u0"),
        build=_build_up, names=lambda block: names(block, _in_block(), _STEPPING),
        options=("upsample",), read=_read, write=_write,
    ),
    Format(
        role="layer", name="BigGAN's block of a discriminator", kind=PreActivationBlock,
        fits=lambda block: not block.activated_shortcut, knows=has("conv1.u0", "conv2.u0"),
        build=_build_down, names=lambda block: names(block, _in_block(), _STEPPING),
        options=("first", "downsample"), read=_read, write=_write,
    ),
    Format(
        role="layer", name="BigGAN's norm", kind=ConditionalNorm2d,
        fits=lambda norm: norm.condition != "mlp" and norm.scale == "residual",
        knows=has("gain.weight", "bias.weight"),
        build=_build_norm, names=lambda norm: names(norm, _in_norm(), _STEPPING),
        options=("classes",), read=_read, write=_write,
    ),
    Format(
        role="layer", name="BigGAN's attention", kind=SelfAttention2d,
        fits=lambda attention: attention.query.step_in_eval, knows=has("theta.u0"),
        build=_build_attention, names=lambda attention: names(attention, _in_attention(), _STEPPING),
        read=_read, write=_write,
    ),
)  # fmt: skip

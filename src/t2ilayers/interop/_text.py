"""Published files of SSA-GAN, DF-GAN and RAT-GAN: networks, blocks and layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, cast

import torch
from torch import nn

from ..layers import (
    AttentionMatchingHead,
    ConditionalNorm2d,
    DFAffineBlock,
    DownBlock,
    MatchingHead,
    SemanticAffineBN,
)
from ..models import (
    DFBlock,
    DFGenerator,
    MatchingAwareDiscriminator,
    RATGenerator,
    RecurrentCondition,
    SSAGenerator,
)
from ._format import Format, State, count, has, need, within

# Of DF-GAN's code of 2020 and RAT-GAN, the affines in the order in which they are applied.
_IN_ROW = {2: ("affine0", "affine1", "affine2", "affine3"),
           3: ("affine0", "affine1", "affine4", "affine2", "affine3", "affine5")}  # fmt: skip
_MLP = "fc_gamma.linear1.weight"


def _mlps(gamma: str = "gamma", beta: str = "beta") -> dict[str, str]:
    """Of an affine."""
    return {f"fc_{mlp}.linear{i + 1}.": f"{ours}.{2 * i}."
            for mlp, ours in (("gamma", gamma), ("beta", beta)) for i in (0, 1)}  # fmt: skip


def _affine(module: nn.Module) -> dict[str, str]:
    return {"batch_norm2d.": "normalize.", **_mlps()}


def names_of_chain(affines: Sequence[str]) -> dict[str, str]:
    """Of affines in a row, by their published names."""
    names: dict[str, str] = {}
    for i, affine in enumerate(affines):
        names |= within(f"{affine}.", "", _mlps(f"gammas.{i}", f"betas.{i}"))
    return names


def names_of_block(block: DFBlock) -> dict[str, str]:
    """Of a block of DF-GAN's code of 2022, and of GALIP."""
    names = {"c1.": "conv1.", "c2.": "conv2.", "c_sc.": "shortcut."}
    for fuse in ("fuse1", "fuse2"):
        names |= within(f"{fuse}.", f"{fuse}.", names_of_chain(("affine0", "affine1")))
    return names


def _of_2020(block: DFBlock) -> dict[str, str]:
    row = _IN_ROW[len(block.fuse1.gammas)]
    half = len(row) // 2
    return {
        "c1.": "conv1.", "c2.": "conv2.", "c_sc.": "shortcut.", "gamma": "gamma",
        **within("", "fuse1.", names_of_chain(row[:half])),
        **within("", "fuse2.", names_of_chain(row[half:])),
    }  # fmt: skip


def _df_generator(model: DFGenerator) -> dict[str, str]:
    of_2022 = model.version == "2022"
    names = {"fc.": "fc.", "to_rgb." if of_2022 else "conv_img.": "to_image."}
    for i, block in enumerate(cast(Sequence[DFBlock], model.blocks)):
        block_names = names_of_block(block) if of_2022 else _of_2020(block)
        names |= within(f"GBlocks.{i}." if of_2022 else f"block{i}.", f"blocks.{i}.", block_names)
    return names


def _rat_generator(model: RATGenerator) -> dict[str, str]:
    names = {"fc.": "fc.", "conv_img.": "to_image.", "lstm.": "condition."}
    for i, block in enumerate(cast(Sequence[DFBlock], model.blocks)):
        names |= within(f"block{i}.", f"blocks.{i}.", _of_2020(block))
    return names


def _rat_unused(model: RATGenerator) -> dict[str, tuple[int, ...]]:
    """Layers of features in every block and, but for the form of flowers, the third affine of each row."""
    entries: dict[str, tuple[int, ...]] = {}
    state = len(model.condition.U)
    for i, block in enumerate(cast(Sequence[DFBlock], model.blocks)):
        widths = (block.conv1.in_channels, block.conv1.out_channels)
        for name, affine, width in zip(("fea_l", "fea_ll"), ("affine4", "affine5"), widths, strict=True):
            entries |= {f"block{i}.{name}.weight": (256, width), f"block{i}.{name}.bias": (256,)}
            if model.affines == 2:
                for mlp in ("fc_gamma", "fc_beta"):
                    entries |= {
                        f"block{i}.{affine}.{mlp}.linear1.weight": (256, state),
                        f"block{i}.{affine}.{mlp}.linear1.bias": (256,),
                        f"block{i}.{affine}.{mlp}.linear2.weight": (width, 256),
                        f"block{i}.{affine}.{mlp}.linear2.bias": (width,),
                    }
    return entries


def _one_cell(state: State) -> State:
    """Without the copies of the one cell that the blocks share, which must agree."""
    own = {}
    for key, value in state.items():
        _, found, rest = key.partition(".lstm.")
        if not found:
            own[key] = value
        elif not torch.equal(value, shared := need(state, f"lstm.{rest}", value.dim())):
            raise ValueError(
                f"key {key} must hold the numbers of lstm.{rest}, for all blocks share one cell, got others"
                f"{'' if value.shape == shared.shape else f' of {tuple(value.shape)}'}; the file is damaged"
            )
    return own


def _cell_in_blocks(state: State) -> State:
    cell = {key: value for key, value in state.items() if key.startswith("lstm.")}
    blocks = dict.fromkeys(key.split(".")[0] for key in state if key.startswith("block"))
    return {**state, **{f"{block}.{key}": value for block in blocks for key, value in cell.items()}}


def _ssa_generator(model: SSAGenerator) -> dict[str, str]:
    names = {"fc.": "fc.", "conv_img.": "to_image."}
    for i in range(len(model.blocks)):
        # The published code keeps the predictor of a block's mask in the block before it.
        names["conv_mask." if i == 0 else f"block{i - 1}.conv_mask."] = f"blocks.{i}.mask_predictor.layers."
        names |= {f"block{i}.gamma": f"blocks.{i}.gamma", f"block{i}.c_sc.": f"blocks.{i}.shortcut."}
        for j, (conv, norm) in enumerate((("c1", "affine0"), ("c2", "affine2")), start=1):
            names[f"block{i}.{conv}."] = f"blocks.{i}.conv{j}."
            names |= within(f"block{i}.{norm}.", f"blocks.{i}.norm{j}.", _affine(model))
    return names


def _down(block: DownBlock) -> dict[str, str]:
    return {"gamma": "gamma", "conv_r.": "residual.", "conv_s.": "shortcut."}


def _down_unused(block: DownBlock) -> dict[str, tuple[int, ...]]:
    width = block.out_channels
    learned = not isinstance(block.shortcut, nn.Identity)
    return {} if learned else {"conv_s.weight": (width, width, 1, 1), "conv_s.bias": (width,)}


def _head(head: MatchingHead | AttentionMatchingHead) -> dict[str, str]:
    if isinstance(head, MatchingHead):
        return {"joint_conv.": "layers."}
    return {
        "joint_conv.": "head.layers.",
        "joint_conv_att.": "attention.",
        **within("block.", "block.", _down(head.block)),
    }


def _trunk(model: MatchingAwareDiscriminator) -> tuple[str, str, str]:
    """Prefixes of the trunk, of a block with its number, and of the head; of 2022, networks of their own."""
    return ("netD.", "netD.DBlocks.{}.", "netC.") if model.max_width == 8 else ("", "block{}.", "COND_DNET.")


def _discriminator(model: MatchingAwareDiscriminator) -> dict[str, str]:
    trunk, block, head = _trunk(model)
    names = {f"{trunk}conv_img.": "from_image.", **within(head, "head.", _head(model.head))}
    for i, part in enumerate(cast(Iterable[DownBlock], model.blocks)):
        names |= within(block.format(i), f"blocks.{i}.", _down(part))
    return names


def _discriminator_unused(model: MatchingAwareDiscriminator) -> dict[str, tuple[int, ...]]:
    _, block, _ = _trunk(model)
    entries: dict[str, tuple[int, ...]] = {}
    for i, part in enumerate(model.blocks):
        if isinstance(part, DownBlock):
            entries |= {block.format(i) + key: shape for key, shape in _down_unused(part).items()}
    if model.attention:  # features are taken before the last block
        width = cast(MatchingHead, model.head.head).in_channels
        last = block.format(len(model.blocks))
        entries |= {
            f"{last}gamma": (1,),
            f"{last}conv_r.0.weight": (width, width, 4, 4), f"{last}conv_r.2.weight": (width, width, 3, 3),
            f"{last}conv_s.weight": (width, width, 1, 1), f"{last}conv_s.bias": (width,),
        }  # fmt: skip
    return entries


def _sizes(state: State) -> tuple[int, int]:
    """ngf and z_dim of a generator."""
    fc = need(state, "fc.weight", 2)
    return fc.shape[0] // 128, fc.shape[1]


def _build_ssa(state: State) -> SSAGenerator:
    ngf, z_dim = _sizes(state)
    mlp, mask = need(state, f"block0.affine0.{_MLP}", 2), need(state, "conv_mask.0.weight", 4)
    size = 4 * 2 ** (count(state, r"block(\w+)\.") - 1)
    return SSAGenerator(size, ngf, z_dim, mlp.shape[1], mask_channels=mask.shape[0], hidden_dim=mlp.shape[0])


def _build_df(state: State) -> DFGenerator:
    ngf, z_dim = _sizes(state)
    if any(key.startswith("GBlocks.") for key in state):
        mlp = need(state, f"GBlocks.0.fuse1.affine0.{_MLP}", 2)
        return DFGenerator(4 * 2 ** count(state, r"GBlocks\.(\w+)\."), ngf, z_dim, mlp.shape[1] - z_dim)
    mlp = need(state, f"block0.affine0.{_MLP}", 2)
    return DFGenerator(4 * 2 ** (count(state, r"block(\w+)\.") - 1), ngf, z_dim, mlp.shape[1], version="2020")


def _build_rat(state: State, *, affines: Literal[2, 3] = 2) -> RATGenerator:
    ngf, z_dim = _sizes(state)
    size = 4 * 2 ** (count(state, r"block(\w+)\.") - 1)
    return RATGenerator(size, ngf, z_dim, need(state, "lstm.W", 2).shape[0], affines=affines)


def _build_discriminator(state: State) -> MatchingAwareDiscriminator:
    of_2022 = any(key.startswith("netD.") for key in state)
    trunk, joint = ("netD.", "netC.") if of_2022 else ("", "COND_DNET.")
    if "DBlocks.0.gamma" in state:
        raise ValueError("DF-GAN's code of 2022 has a second network, netC; give its state dict as head")
    blocks, most = count(state, r"(?:block|netD\.DBlocks\.)(\w+)\."), 8 if of_2022 else 16
    ndf = need(state, f"{trunk}conv_img.weight", 4).shape[0]
    channels = need(state, f"{joint}joint_conv.0.weight", 4).shape[1]
    cond_dim = channels - ndf * min(most, 2**blocks)
    attention = f"{joint}joint_conv_att.0.weight" in state
    return MatchingAwareDiscriminator(4 * 2**blocks, ndf, cond_dim, max_width=most, attention=attention)


def _build_block(state: State, *, upsample: bool = True, size: int | None = None) -> DFBlock:
    """A block of 2022, which upsamples, or of 2020, whose generator upsamples between blocks."""
    conv, of_2022 = need(state, "c1.weight", 4), f"fuse1.affine0.{_MLP}" in state
    mlp = need(state, f"fuse1.affine0.{_MLP}" if of_2022 else f"affine0.{_MLP}", 2)
    affines = 3 if f"affine4.{_MLP}" in state else 2
    return DFBlock(conv.shape[1], conv.shape[0], mlp.shape[1], None if of_2022 else mlp.shape[0],
                   upsample=upsample and of_2022, size=size, affines=affines, gated=not of_2022)  # fmt: skip


def _build_chain(state: State) -> DFAffineBlock:
    mlp, last = need(state, f"affine0.{_MLP}", 2), need(state, "affine0.fc_gamma.linear2.weight", 2)
    return DFAffineBlock(last.shape[0], mlp.shape[1], mlp.shape[0], affines=count(state, r"affine(\w+)\."))


def _build_affine(state: State) -> ConditionalNorm2d:
    mlp, last = need(state, _MLP, 2), need(state, "fc_gamma.linear2.weight", 2)
    if "batch_norm2d.running_mean" in state:
        return SemanticAffineBN(last.shape[0], mlp.shape[1], mlp.shape[0])
    return ConditionalNorm2d(last.shape[0], mlp.shape[1], hidden_dim=mlp.shape[0], stats="none", scale="absolute")


def _build_down(state: State) -> DownBlock:
    conv = need(state, "conv_r.0.weight", 4)
    return DownBlock(conv.shape[1], conv.shape[0])


def _build_head(state: State, *, cond_dim: int = 256) -> MatchingHead | AttentionMatchingHead:
    """A head of a 4x4 grid, of 7x7 in GALIP, or of 8x8 with attention."""
    conv = need(state, "joint_conv.0.weight", 4)
    if "joint_conv_att.0.weight" in state:
        return AttentionMatchingHead(conv.shape[1] - cond_dim, conv.shape[0], cond_dim)
    grid: Any = {"size": 7, "kernel_size": 4, "padding": 0} if conv.shape[2] == 4 else {}
    return MatchingHead(conv.shape[1] - cond_dim, conv.shape[0], cond_dim, **grid)


def _build_cell(state: State) -> RecurrentCondition:
    noise, weight = need(state, "noise2h.weight", 2), need(state, "W", 2)
    return RecurrentCondition(noise.shape[1], weight.shape[0], noise.shape[0])


FORMATS = (
    Format(
        role="generator", name="SSA-GAN", kind=SSAGenerator,
        knows=has("conv_mask.0.weight"), build=_build_ssa, names=_ssa_generator,
    ),
    Format(
        role="generator", name="RAT-GAN", kind=RATGenerator,
        knows=has("lstm.W"), build=_build_rat, names=_rat_generator,
        options=("affines",), unused=_rat_unused, read=_one_cell, write=_cell_in_blocks,
    ),
    Format(
        role="generator", name="DF-GAN", kind=DFGenerator,
        knows=lambda state: any(f"{key}.{_MLP}" in state for key in ("GBlocks.0.fuse1.affine0", "block0.affine1")),
        build=_build_df, names=_df_generator,
    ),
    Format(
        role="discriminator", name="SSA-GAN, DF-GAN and RAT-GAN", kind=MatchingAwareDiscriminator,
        knows=lambda state: any(key in state for key in ("conv_img.weight", "netD.conv_img.weight")),
        build=_build_discriminator, names=_discriminator, unused=_discriminator_unused,
    ),
    Format(
        role="layer", name="DF-GAN's block of 2022", kind=DFBlock, fits=lambda block: block.gamma is None,
        knows=has("c1.weight", f"fuse1.affine0.{_MLP}"), build=_build_block, names=names_of_block,
        options=("upsample", "size"),
    ),
    Format(
        role="layer", name="DF-GAN's block of 2020", kind=DFBlock,
        knows=has("c1.weight", f"affine1.{_MLP}"), build=_build_block, names=_of_2020,
    ),
    Format(
        role="layer", name="DF-GAN's affines", kind=DFAffineBlock,
        knows=has(f"affine0.{_MLP}", without=["c1.weight"]), build=_build_chain,
        names=lambda block: names_of_chain([f"affine{i}" for i in range(len(block.gammas))]),
    ),
    Format(
        role="layer", name="an affine", kind=ConditionalNorm2d, fits=lambda norm: norm.condition == "mlp",
        knows=has(_MLP), build=_build_affine, names=_affine,
    ),
    Format(
        role="layer", name="a block of a discriminator", kind=DownBlock,
        knows=has("conv_r.0.weight", without=["beta"]), build=_build_down, names=_down, unused=_down_unused,
    ),
    Format(
        role="layer", name="RAT-GAN's head", kind=AttentionMatchingHead,
        knows=has("joint_conv_att.0.weight"), build=_build_head, names=_head, options=("cond_dim",),
    ),
    Format(
        role="layer", name="a head", kind=MatchingHead,
        knows=has("joint_conv.0.weight"), build=_build_head, names=_head, options=("cond_dim",),
    ),
    Format(
        role="layer", name="RAT-GAN's cell", kind=RecurrentCondition,
        knows=has("W", "U", "noise2h.weight"), build=_build_cell, names=lambda cell: {"": ""},
    ),
)  # fmt: skip

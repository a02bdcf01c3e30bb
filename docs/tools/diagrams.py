"""Draw the diagrams of the layers, and one picture of what the op does, as SVG files that pages take in.

    python docs/tools/diagrams.py build/docs

A diagram is a grid of boxes, 120 wide each, and arrows between them: what a reader of a phone can still read.
"""

from __future__ import annotations

import sys
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from t2ilayers.ops import masked_affine_norm

WIDTH, HEIGHT, GAP = 120, 40, 28


class Box(NamedTuple):
    """``text`` in column ``x`` and row ``y``; data has a dashed frame, an operation a filled one."""

    x: float
    y: float
    text: str
    data: bool = False
    span: int = 1

    @property
    def left(self) -> float:
        return self.x * WIDTH + 6

    @property
    def right(self) -> float:
        return (self.x + self.span) * WIDTH - 6

    @property
    def top(self) -> float:
        return self.y * (HEIGHT + GAP) + 6

    @property
    def bottom(self) -> float:
        return self.top + HEIGHT

    def svg(self) -> str:
        lines = self.text.split("\n")
        middle = (self.left + self.right) / 2
        first = (self.top + self.bottom) / 2 + 4 - 7.5 * (len(lines) - 1)
        kind = "data" if self.data else "box"
        return (
            f'<rect class="{kind}" x="{self.left:g}" y="{self.top:g}" width="{self.right - self.left:g}" '
            f'height="{HEIGHT}" rx="6"/>'
        ) + "".join(
            f'<text x="{middle:g}" y="{first + 15 * i:g}" text-anchor="middle">{escape(line)}</text>'
            for i, line in enumerate(lines)
        )


def arrow(a: Box, b: Box) -> str:
    """From a box to one below it, over the gap above the lower one, or to one beside it."""
    if a.y == b.y:
        forward = a.x < b.x
        x0, x1 = (a.right, b.left - 3) if forward else (a.left, b.right + 3)
        y = (a.top + a.bottom) / 2
        path = f"M{x0:g} {y:g}H{x1:g}"
    else:
        x0 = (a.left + a.right) / 2
        x1 = (b.left + b.right) / 2 if not b.left < x0 < b.right else x0
        turn = b.top - GAP / 2
        path = f"M{x0:g} {a.bottom:g}V{turn:g}H{x1:g}V{b.top - 3:g}"
    return f'<path class="line" d="{path}" marker-end="url(#t2i-arrow)"/>'


def diagram(title: str, boxes: dict[str, Box], arrows: str) -> str:
    """``arrows`` lists paths through the boxes: ``"a b c, d c"``."""
    paths = [path.split() for path in arrows.split(",")]
    lines = [arrow(boxes[a], boxes[b]) for path in paths for a, b in pairwise(path)]
    width = max(box.right for box in boxes.values()) + 6
    height = max(box.bottom for box in boxes.values()) + 6
    return svg(title, width, height, "".join(lines) + "".join(box.svg() for box in boxes.values()))


def svg(title: str, width: float, height: float, body: str) -> str:
    marker = (
        '<defs><marker id="t2i-arrow" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L8 4L0 8z" fill="currentColor"/></marker></defs>'
    )
    return (
        f'<svg class="t2i" role="img" aria-label="{escape(title)}" width="{width:g}" '
        f'viewBox="0 0 {width:g} {height:g}" font-size="11.5">{marker}{body}</svg>\n'
    )


DIAGRAMS = {
    "semantic_affine_bn": diagram(
        "SemanticAffineBN: features, condition and mask to features",
        {
            "x": Box(0, 0, "x\nN, C, H, W", True),
            "e": Box(1, 0, "cond e\nN, D", True),
            "m": Box(2, 0, "mask m\nN, 1, sH, sW", True),
            "n": Box(0, 1, "batch norm x̂\nno affine"),
            "p": Box(1, 1, "two MLPs\nγ(e), β(e): N, C"),
            "u": Box(0, 2, "nearest ×s"),
            "a": Box(0, 3, "act( (1 + γm) x̂ + βm )", span=3),
            "y": Box(0, 4, "y\nN, C, sH, sW", True, span=3),
        },
        "x n u a y, e p a, m a",
    ),
    "mask_predictor": diagram(
        "MaskPredictor: features to logits to a mask",
        {
            "x": Box(0, 0, "x\nN, C, H, W", True),
            "a": Box(0, 1, "conv 3×3\nC → 100"),
            "b": Box(0, 2, "batch norm\nReLU"),
            "c": Box(0, 3, "conv 1×1\n100 → 1"),
            "l": Box(0, 4, "logits\nN, 1, H, W", True),
            "u": Box(0, 5, "to_mask: sigmoid\nof bilinear ×s"),
            "m": Box(0, 6, "mask\nN, 1, sH, sW", True),
        },
        "x a b c l u m",
    ),
    "ssa_conv": diagram(
        "SSAConv: a residual block whose two norms share one mask",
        {
            "x": Box(1, 0, "x\nN, C, H, W", True),
            "s": Box(0, 1, "shortcut\n1×1 conv, ×s"),
            "q": Box(2, 1, "MaskPredictor\nto_mask ×s"),
            "a": Box(1, 2, "SABN, ReLU\nnearest ×s"),
            "i": Box(2, 2, "mask m\ncond e", True),
            "b": Box(1, 3, "conv 3×3"),
            "c": Box(1, 4, "SABN, ReLU"),
            "j": Box(2, 4, "mask m\ncond e", True),
            "d": Box(1, 5, "conv 3×3\n× learned g"),
            "p": Box(1, 6, "+"),
            "y": Box(1, 7, "y\nN, C′, sH, sW", True),
            "m": Box(2, 7, "mask m\nN, 1, sH, sW", True),
        },
        "x a b c d p y, x s p, x q i j m, i a, j c",
    ),
    "activated_batch_norm": diagram(
        "ActivatedBatchNorm: batch norm and activation in one op",
        {
            "x": Box(0, 0, "x\nN, C, H, W", True),
            "a": Box(0, 1, "act( w x̂ + b )"),
            "y": Box(0, 2, "y\nN, C, H, W", True),
        },
        "x a y",
    ),
    "spade": diagram(
        "SPADE2d: scale and shift as maps of a label map",
        {
            "x": Box(0, 0, "x\nN, C, H, W", True),
            "s": Box(1, 0, "labels\nN, L, h, w", True),
            "h": Box(1, 1, "nearest to H, W\nconv 3×3, ReLU"),
            "n": Box(0, 2, "normalize"),
            "g": Box(1, 2, "conv 3×3: γ\nconv 3×3: β"),
            "a": Box(0, 3, "act( (1+γ) x̂ + β )", False, 2),
            "y": Box(0, 4, "y\nN, C, H, W", True),
        },
        "x n a y, s h g a",
    ),
    "df_affine_block": diagram(
        "DFAffineBlock: two affines of the condition in one op",
        {
            "x": Box(0, 0, "x\nN, C, H, W", True),
            "e": Box(1, 0, "cond e\nN, D", True),
            "a": Box(0, 1, "act( γ₁ x + β₁ )"),
            "g": Box(1, 1, "MLPs: γ₁, β₁"),
            "b": Box(0, 2, "act( γ₂ x + β₂ )"),
            "h": Box(1, 2, "MLPs: γ₂, β₂"),
            "y": Box(0, 3, "y\nN, C, H, W", True),
        },
        "x a b y, e g, g a, h b, g h",
    ),
    "generator": diagram(
        "SSAGenerator: noise and sentence to picture and masks",
        {
            "z": Box(1, 0, "z\nN, 100", True),
            "f": Box(1, 1, "Linear\n8·ngf, 4, 4"),
            "a": Box(1, 2, "SSAConv\n8·ngf, 4, 4"),
            "b": Box(1, 3, "SSAConv ↑\n8·ngf, 8, 8"),
            "c": Box(1, 4, "…\nsizes double"),
            "d": Box(1, 5, "SSAConv ↑\nngf, S, S"),
            "h": Box(1, 6, "BN, leaky ReLU\nconv 3×3, tanh"),
            "y": Box(1, 7, "image\nN, 3, S, S", True),
            **{
                name: Box(0, row, "sentence e\nN, D", True)
                for name, row in (("p", 2), ("q", 3), ("r", 4), ("s", 5))
            },
            **{
                name: Box(2, row, f"mask\n{side}", True)
                for name, row, side in (("i", 2, "4 × 4"), ("j", 3, "8 × 8"), ("k", 4, "…"), ("l", 5, "S × S"))
            },
        },
        "z f a b c d h y, p a i, q b j, r c k, s d l",
    ),
    "down_block": diagram(
        "DownBlock: a residual block that halves the size",
        {
            "x": Box(0.5, 0, "x\nN, C, H, W", True),
            "a": Box(0, 1, "conv 4×4, /2\nleaky ReLU"),
            "b": Box(0, 2, "conv 3×3\nleaky ReLU"),
            "g": Box(0, 3, "× learned g"),
            "s": Box(1, 1, "mean of 2×2"),
            "t": Box(1, 2, "1×1 conv, where\nC′ differs"),
            "p": Box(0.5, 4, "+"),
            "y": Box(0.5, 5, "y\nN, C′, H/2, W/2", True),
        },
        "x a b g p y, x s t p",
    ),
    "matching_head": diagram(
        "MatchingHead: features and condition to a logit",
        {
            "f": Box(0, 0, "features\nN, C, 4, 4", True),
            "e": Box(1, 0, "cond e\nN, D", True),
            "r": Box(1, 1, "repeat over 4×4"),
            "c": Box(0.5, 2, "concatenate\nC + D"),
            "a": Box(0.5, 3, "conv 3×3\nleaky ReLU"),
            "b": Box(0.5, 4, "conv 4×4"),
            "y": Box(0.5, 5, "logit\nN", True),
        },
        "f c a b y, e r c",
    ),
    "discriminator": diagram(
        "MatchingAwareDiscriminator: picture and sentence to a logit",
        {
            "i": Box(0, 0, "image\nN, 3, S, S", True),
            "a": Box(0, 1, "conv 3×3\nndf, S, S"),
            "b": Box(0, 2, "DownBlock\n2·ndf, S/2, S/2"),
            "c": Box(0, 3, "…\nat most 16·ndf"),
            "f": Box(0, 4, "features\nN, C, 4, 4", True),
            "e": Box(1, 4, "cond e\nN, D", True),
            "h": Box(0.5, 5, "MatchingHead"),
            "y": Box(0.5, 6, "logit\nN", True),
        },
        "i a b c f h y, e h",
    ),
    "text_encoder": diagram(
        "LSTMTextEncoder: tokens to word and sentence features",
        {
            "t": Box(0.5, 0, "tokens\nN, T", True),
            "a": Box(0.5, 1, "embedding 300\ndropout"),
            "b": Box(0.5, 2, "bidirectional LSTM\n2 × D/2"),
            "w": Box(0, 3, "words\nN, D, T", True),
            "s": Box(1, 3, "sentence\nN, D", True),
        },
        "t a b w, b s",
    ),
    "image_encoder": diagram(
        "InceptionImageEncoder: picture to region features and a code",
        {
            "i": Box(0.5, 0, "image\nN, 3, S, S", True),
            "a": Box(0.5, 1, "bilinear\nto 299 px"),
            "b": Box(0.5, 2, "Inception-v3, frozen"),
            "c": Box(0, 3, "1×1 conv\n768 → D"),
            "d": Box(1, 3, "average, Linear\n2048 → D"),
            "r": Box(0, 4, "regions\nN, D, 17, 17", True),
            "g": Box(1, 4, "code\nN, D", True),
        },
        "i a b c r, b d g",
    ),
    "conv_image_encoder": diagram(
        "ConvImageEncoder: picture to region features and a code",
        {
            "i": Box(0.5, 0, "image\nN, 3, S, S", True),
            "a": Box(0.5, 1, "strided convs\nto 8×8"),
            "b": Box(0.5, 2, "2 residual convs"),
            "c": Box(0, 3, "1×1 conv"),
            "d": Box(1, 3, "strided conv\nLinear"),
            "r": Box(0, 4, "regions\nN, D, 8, 8", True),
            "g": Box(1, 4, "code\nN, D", True),
        },
        "i a b c r, b d g",
    ),
}


def panels() -> str:
    """One channel of a real call: x̂, the mask, and y for three settings of gamma and beta."""
    side = 12
    x = torch.randn(1, 1, side, side, generator=torch.Generator().manual_seed(3))
    axis = torch.arange(side) - (side - 1) / 2
    mask = torch.sigmoid(2 * (3.6 - (axis[:, None] ** 2 + axis[None] ** 2).sqrt()))[None, None]

    def y(gamma: float, beta: float) -> Tensor:
        return masked_affine_norm(x, torch.full((1, 1), gamma), torch.full((1, 1), beta), mask, impl="reference")

    shown = [
        ("x̂", y(0.0, 0.0)), ("m", mask), ("γ = 1.5, β = 0", y(1.5, 0.0)),
        ("γ = −1, β = 0", y(-1.0, 0.0)), ("γ = 0, β = 2", y(0.0, 2.0)), ("γ = −1, β = 2", y(-1.0, 2.0)),
    ]  # fmt: skip
    cell, body = 9, []
    for i, (name, values) in enumerate(shown):
        left, top = 6 + i % 3 * (side * cell + 12), 6 + i // 3 * (side * cell + 30)
        for (row, column), value in zip(
            ((r, c) for r in range(side) for c in range(side)), values.flatten().tolist(), strict=True
        ):
            kind, strength = ("cell" if value > 0 else "minus"), min(abs(value) / 2.5, 1)
            if name == "m":
                strength = value
            body.append(
                f'<rect class="{kind}" x="{left + column * cell}" y="{top + row * cell}" width="{cell}" '
                f'height="{cell}" opacity="{strength:.2f}"/>'
            )
        body.append(f'<rect class="frame" x="{left}" y="{top}" width="{side * cell}" height="{side * cell}"/>')
        body.append(
            f'<text x="{left + side * cell / 2:g}" y="{top + side * cell + 16}" text-anchor="middle">{name}</text>'
        )
    width, height = 3 * side * cell + 36, 2 * (side * cell + 30)
    return svg("A feature map, a mask, and what the op makes of them", width, height, "".join(body))


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {**DIAGRAMS, "panels": panels()}.items():
        (folder / f"{name}.svg").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Which part of a text-to-image GAN learns what of drawn shapes, each part by itself.

    python benchmarks/probes.py runs/demo/pretraining/encoders

``by labels``: accuracy of networks that are told a picture's shape or texture as a number, over 50 steps of 128
pictures that they have not seen before. ``encoders``: what pre-trained ones know of textures, by the cosine of
sentences that differ in nothing else, and by a linear map of held-out pictures' codes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from common import environment, write
from torch import Tensor, nn
from torch.nn import functional as F

from t2ilayers import MatchingAwareDiscriminator
from t2ilayers.data import SHAPES, TEXTURES, CaptionedShapes
from t2ilayers.encoders import ConvImageEncoder, EncoderPair
from t2ilayers.layers import set_gates

SIDE, BATCH, STEPS, WINDOW = 32, 128, 300, 50
SENTENCES = (
    "a picture of a big red star against a {} background",
    "a {} navy background with a small ring at the top",
)


def encoder(data: CaptionedShapes, *, whitened: bool) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    network = ConvImageEncoder(SIDE, width=32)
    if whitened:
        network.whiten(torch.stack([data.image(i) for i in range(256)]))
    return network, lambda images: network(images).code


def discriminator(_: CaptionedShapes, *, gate: float) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    network = MatchingAwareDiscriminator(SIDE, ndf=16)
    set_gates(network, gate)
    return network, lambda images: network.features(images).flatten(1)


def by_labels(make: Any, data: CaptionedShapes, what: str, rate: float, labelled: int = BATCH) -> list[float]:
    """Accuracy in each window of steps; the loss is that of the first ``labelled`` pictures of a batch."""
    torch.manual_seed(0)
    network, features = make(data)
    words = SHAPES if what == "shape" else TEXTURES
    head = nn.Linear(features(data.image(0)[None].expand(2, -1, -1, -1)).shape[1], len(words))
    optimizer = torch.optim.Adam([*network.parameters(), *head.parameters()], rate, betas=(0.5, 0.999))
    found = []
    for step in range(STEPS):
        indices = range(step * BATCH, (step + 1) * BATCH)
        scenes = [data.attributes(i) for i in indices]
        named = [scene.objects[0].shape if what == "shape" else scene.texture for scene in scenes]
        labels = torch.tensor([words.index(word) for word in named])
        logits = head(features(torch.stack([data.image(i) for i in indices])))
        optimizer.zero_grad()
        F.cross_entropy(logits[:labelled], labels[:labelled]).backward()
        optimizer.step()
        found.append((logits.argmax(1) == labels).float().mean().item())
    return [round(sum(found[i : i + WINDOW]) / WINDOW, 3) for i in range(0, STEPS, WINDOW)]


@torch.no_grad()
def knowledge(pair: EncoderPair, fitted: int = 4096, held_out: int = 1024) -> dict[str, Any]:
    pair.eval()
    cosines = []
    for sentence in SENTENCES:
        directions = F.normalize(pair.sentences([sentence.format(texture) for texture in TEXTURES]), dim=1)
        cosines.append(directions @ directions.T)
    alike = torch.stack(cosines).mean(0)
    sides = []
    for split, count in (("train", fitted), ("test", held_out)):
        data = CaptionedShapes(count, image_size=SIDE, split=split)
        batches = [range(i, i + BATCH) for i in range(0, count, BATCH)]
        codes = torch.cat([pair.images(torch.stack([data.image(i) for i in batch])) for batch in batches])
        labels = torch.tensor([TEXTURES.index(data.attributes(i).texture) for i in range(count)])
        sides.append((F.pad(codes, (0, 1), value=1.0).double(), labels))
    (x, y), (held, truth) = sides
    weights = torch.linalg.solve(x.T @ x + 0.01 * torch.eye(x.shape[1]), x.T @ F.one_hot(y).double())
    read = (held @ weights).argmax(1)
    return {
        "cosine of sentences": {
            f"{TEXTURES[i]}, {TEXTURES[j]}": round(alike[i, j].item(), 3)
            for i in range(len(TEXTURES))
            for j in range(i + 1, len(TEXTURES))
        },
        "texture read from codes": round((read == truth).float().mean().item(), 3),
    }


def main() -> None:
    data = CaptionedShapes(STEPS * BATCH, image_size=SIDE)
    learned = {
        "texture, image encoder": by_labels(partial(encoder, whitened=False), data, "texture", 2e-3),
        "texture, image encoder, whitened": by_labels(partial(encoder, whitened=True), data, "texture", 2e-3),
        "texture, image encoder, whitened, a quarter labelled": by_labels(
            partial(encoder, whitened=True), data, "texture", 2e-3, BATCH // 4
        ),
    }
    for what in ("shape", "texture"):
        for gate in (0.0, 1.0):
            name = f"{what}, discriminator, gates at {gate:.0f}"
            learned[name] = by_labels(partial(discriminator, gate=gate), data, what, 1e-3)
    record: dict[str, Any] = {"environment": environment("cpu"), "steps a figure": WINDOW, "by labels": learned}
    record |= {"encoders": knowledge(EncoderPair.from_pretrained(sys.argv[1]))}
    print(record)
    write("probes_shapes", record)


if __name__ == "__main__":
    main()

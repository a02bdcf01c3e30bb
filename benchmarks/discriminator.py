"""What a discriminator says of pictures it was trained on, and of held-out ones: does it know them by heart?

    python benchmarks/discriminator.py emoji runs/emoji runs/comparison/emoji/*_0/model

Logits of pictures with their own captions, and how much higher they are than with the caption of the next picture
in the batch of 32; of discriminators with a projection also how often a picture finds its caption in the batch.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from common import environment, write
from torch.nn import functional as F

from t2ilayers import SSAGAN
from t2ilayers.data import BatchDataset, open_dataset

BATCHES = 5
SIZE = 32


def asked(model: SSAGAN, batches: BatchDataset) -> dict[str, float]:
    logits, others, right = [], [], []
    for i in range(BATCHES):
        batch = batches[i]
        sentences = model.encode(batch["captions"])
        features = model.discriminator.features(batch["image"])
        logits.append(model.discriminator.match(features, sentences).mean())
        others.append(model.discriminator.match(features, sentences.roll(1, 0)).mean())
        if model.discriminator.projection is not None:
            similar = F.normalize(model.discriminator.code(features), dim=1) @ F.normalize(sentences, dim=1).T
            right.append((similar.argmax(1) == torch.arange(SIZE)).float().mean())
    logit, other = torch.stack(logits).mean().item(), torch.stack(others).mean().item()
    found = {"logit": logit, "above mismatched": logit - other}
    return found | ({"finds its caption": torch.stack(right).mean().item()} if right else {})


@torch.no_grad()
def main(name: str, data: str, folders: list[str]) -> None:
    models = {}
    for folder in folders:
        model = SSAGAN.from_pretrained(folder).eval()
        splits = {}
        for split in ("train", "test"):
            dataset = open_dataset(data, split, image_size=model.config.image_size, seed=0)
            splits[split] = asked(model, BatchDataset(dataset, SIZE, seed=5))
        models[Path(folder).parent.name] = splits
        print(folder, splits, flush=True)
    write(f"discriminator_{name}", {"environment": environment("cpu"), "batches": BATCHES, "models": models})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])

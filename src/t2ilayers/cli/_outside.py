"""What ``t2ilayers evaluate`` measures by the outside judge: ``--outside``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..data import Batch, CaptionedDataset
from ..data.dataset import spread
from ..metrics import (
    OutsideJudge,
    conditional_frechet_distance,
    data_copying,
    density_coverage,
    kernel_distance,
    nearest_features,
    prompt_diversity,
    r_precision,
    vendi_score,
)

CANDIDATES = 100
PROMPTS, DRAWN = 64, 4  # captions whose pictures are compared with each other, and how many of each
_TRAIN_PICTURES = 2000  # that copies are looked for among
_FITTED_PICTURES = 5000
_CAPTION_DIMS = 32  # of the codes of captions that the conditional distance sees
_BATCH = 64


def open_outside(
    path: Path, train: Callable[[], CaptionedDataset], device: torch.device, seed: int
) -> OutsideJudge:
    """The judge whose map lies in a file, which is fitted on training pictures and written if it is missing."""
    judge = OutsideJudge.pretrained(device)
    if path.exists():
        return judge.load(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = train()
    indices = spread(len(dataset), _FITTED_PICTURES)
    judge.fit(
        (
            (pictures, [dataset.captions(index) for index in some])
            for some, pictures in read_pictures(dataset, indices, "fitting the outside judge")
        ),
        seed=seed,
    )
    judge.save(path)
    return judge


def read_pictures(dataset: CaptionedDataset, indices: list[int], title: str) -> Iterator[tuple[list[int], Tensor]]:
    """Batches of indices and their pictures, as they are without augmentation."""
    for start in tqdm(range(0, len(indices), _BATCH), desc=title, unit="batch"):
        some = indices[start : start + _BATCH]
        yield some, torch.stack([dataset.image(index, None) for index in some])


def measure_outside(
    judge: OutsideJudge,
    path: Path,
    pairs: Iterable[tuple[Tensor, Batch]],
    train: CaptionedDataset,
    draw: Callable[[list[str]], Tensor],
    *,
    real_pictures: int,
    seed: int,
) -> dict[str, Any]:
    """All measures, each of which says why where it is skipped.

    Args:
        judge: fitted.
        path: of its map.
        pairs: generated pictures and the batches of real ones, which repeat after ``real_pictures``.
        train: the training split.
        draw: pictures of captions, with a noise of its own for each.
        real_pictures: how many there are.
        seed: of candidates and subsets.
    """
    looks: dict[str, list[Any]] = {"generated": [], "real": []}
    captions: list[str] = []
    class_ids = []
    for generated, batch in pairs:
        looks["generated"].append(judge.look(generated))
        looks["real"].append(judge.look(batch["image"]))
        captions += batch["captions"]
        class_ids.append(batch["class_ids"])
    features, codes = (
        {name: torch.cat([look[i] for look in found]) for name, found in looks.items()} for i in (0, 1)
    )
    generated, real = features["generated"], features["real"]
    once = real[:real_pictures]
    sentences, classes = judge.sentences(captions), torch.cat(class_ids)
    batches = read_pictures(train, spread(len(train), _TRAIN_PICTURES), "training pictures")
    seen = torch.cat([judge.look(pictures).features for _, pictures in batches])

    def precision(name: str) -> dict[str, Any]:
        score = r_precision(codes[name], sentences, classes, captions=captions, candidates=CANDIDATES, seed=seed)
        return score._asdict()

    def diversity() -> dict[str, float]:
        prompts = list(dict.fromkeys(captions))[:PROMPTS] * DRAWN
        drawn = judge.look(draw(prompts)).features
        return {
            "same_prompt": prompt_diversity(drawn, prompts),
            "any_prompt": prompt_diversity(drawn, [""] * len(prompts)),
            "prompts": len(prompts) // DRAWN,
            "pictures_per_prompt": DRAWN,
        }

    def conditional() -> dict[str, float]:
        given = sentences[:, :_CAPTION_DIMS]
        return {
            "generated": conditional_frechet_distance(given, real, generated),
            "shuffled": conditional_frechet_distance(given, real, generated.roll(len(generated) // 2, 0)),
        }

    return {
        "judge": {
            "encoders": judge.name,
            "image_size": judge.image_size,
            "map": str(path),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "pairs": judge.pairs,
            "strength": judge.strength,
            "held_out_rank": judge.held_out_rank,
        },
        "r_precision": measured(
            lambda: (
                {name: precision(name) for name in codes} | {"chance": 1 / CANDIDATES, "candidates": CANDIDATES}
            )
        ),
        "conditional_frechet_distance": measured(conditional),
        "kernel_distance": measured(lambda: kernel_distance(once, generated, seed=seed)._asdict()),
        "density_coverage": measured(lambda: density_coverage(once, generated)._asdict()),
        "vendi": measured(lambda: {name: vendi_score(part) for name, part in features.items()}),
        "prompt_diversity": measured(diversity),
        "data_copying": measured(
            lambda: {
                "statistic": data_copying(generated, seen, once),
                "nearest_generated": nearest_features(generated, seen).distances.mean().item(),
                "nearest_real": nearest_features(once, seen).distances.mean().item(),
                "train_pictures": len(seen),
            }
        ),
    }


def measured(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a measure says, or why it says nothing: of a small split the others stand."""
    try:
        return measure()
    except ValueError as error:
        return {"skipped": str(error)}

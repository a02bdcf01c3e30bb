"""What the judges make of real pictures, which is the most that they can say of generated ones.

    python benchmarks/judges.py outside --data data/emoji
    python benchmarks/judges.py outside --data shapes --image-size 32
    python benchmarks/judges.py foreground --data data/stamps
    python benchmarks/judges.py masks --data data/stamps --model runs/stamps/model

``outside``: R-precision of real pictures of the test split by an outside judge, fitted on the training split.
``foreground``: IoU of ``foreground_on_white`` with alpha, of a folder of pictures that have it.
``masks``: IoU of a model's masks with ``foreground_on_white`` of what it draws for all captions of a split.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from common import environment, write

from t2ilayers import SSAGAN
from t2ilayers.data import open_dataset
from t2ilayers.data.dataset import spread
from t2ilayers.data.pictures import read_picture
from t2ilayers.metrics import OutsideJudge, foreground_on_white, r_precision, stage_ious

FITTED, JUDGED, BATCH = 5000, 1000, 64


def outside(data: str, image_size: int) -> dict[str, Any]:
    train, test = (open_dataset(data, split, image_size=image_size) for split in ("train", "test"))
    indices = spread(len(train), FITTED)
    batches = (indices[i : i + BATCH] for i in range(0, len(indices), BATCH))
    start = time.perf_counter()
    judge = OutsideJudge.pretrained().fit(
        (torch.stack([train.image(i, None) for i in some]), [train.captions(i) for i in some]) for some in batches
    )
    fitted = time.perf_counter()
    samples = [test[i] for i in spread(len(test), JUDGED)]
    codes = torch.cat([judge.images(sample["image"][None]) for sample in samples])
    captions, classes = ([sample[key] for sample in samples] for key in ("caption", "class_id"))
    found: dict[str, Any] = {
        "encoders": judge.name,
        "judge_size": judge.image_size,
        "fitted_pictures": len(indices),
        "fitted_pairs": judge.pairs,
        "fitted_seconds": round(fitted - start, 1),
        "strength": judge.strength,
        "held_out_rank": judge.held_out_rank,
        "judged_pictures": len(samples),
    }
    for candidates in (100, 50):
        try:
            score = r_precision(
                codes, judge.sentences(captions), torch.tensor(classes), captions=captions, candidates=candidates
            )
        except ValueError as error:
            found[f"r_precision_of_{candidates}"] = {"skipped": str(error)}
        else:
            found[f"r_precision_of_{candidates}"] = score._asdict() | {"chance": 1 / candidates}
    return found


def foreground(data: str, image_size: int) -> dict[str, Any]:
    from PIL import Image

    ious, constant = [], []
    for path in sorted(Path(data).glob("**/*.png")):
        with Image.open(path) as picture:
            if not picture.has_transparency_data:
                continue
            alpha = picture.convert("RGBA").getchannel("A")
        side = min(alpha.size)
        left, top = (alpha.width - side) / 2, (alpha.height - side) / 2
        box = (left, top, left + side, top + side)
        alpha = alpha.resize((image_size, image_size), Image.Resampling.BICUBIC, box=box)
        truth = torch.tensor(np.asarray(alpha).copy()).view(1, 1, image_size, image_size) > 127
        image = torch.from_numpy(read_picture(path, image_size).copy()).permute(2, 0, 1)[None] / 127.5 - 1
        found = foreground_on_white(image)
        ious.append(float((found & truth).sum() / (found | truth).sum().clamp(min=1)))
        constant.append(float(truth.float().mean()))
    values = torch.tensor(ious)
    return {
        "pictures": len(ious),
        "iou_mean": values.mean().item(),
        "iou_median": values.median().item(),
        "share_below_0.8": (values < 0.8).float().mean().item(),
        "iou_of_a_constant_mask": sum(constant) / len(constant),
    }


def masks(data: str, model: SSAGAN, split: Literal["train", "test"]) -> dict[str, Any]:
    pictures = open_dataset(data, split, image_size=model.config.image_size)
    pictures.vocabulary, pictures.max_words = model.vocabulary, model.config.max_words
    captions = [pictures[i]["caption"] for i in range(len(pictures))]
    drawn = model.generate(captions, seed=0)
    foreground = foreground_on_white(drawn.images)
    ious = stage_ious(drawn.masks, foreground)
    return {
        "captions": len(captions),
        "foreground_of_a_picture": foreground.float().mean().item(),
        "stages": [stage._asdict() for stage in ious.stages],
        "best": ious.best._asdict(),
        "iou_of_a_constant_mask": ious.constant,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("judge", choices=["outside", "foreground", "masks"])
    parser.add_argument("--data", required=True, help="as of t2ilayers evaluate; for foreground a folder")
    parser.add_argument("--image-size", type=int, default=64, help="for masks the model's own")
    parser.add_argument("--model", help="folder of a model, for masks")
    arguments = parser.parse_args()
    found: dict[str, Any]
    if arguments.judge == "masks":
        model = SSAGAN.from_pretrained(arguments.model, discriminator=False, image_encoder=False)
        found = {split: masks(arguments.data, model, split) for split in ("train", "test")}
        arguments.image_size = model.config.image_size
    else:
        measure = outside if arguments.judge == "outside" else foreground
        found = measure(arguments.data, arguments.image_size)
    results = environment("cpu") | {"data": arguments.data, "image_size": arguments.image_size} | found
    print(json.dumps(found, indent=2))
    write(f"judge_{arguments.judge}_{Path(arguments.data).name}", results)


if __name__ == "__main__":
    main()

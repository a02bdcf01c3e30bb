"""What a generator of drawn shapes has learned after so many iterations.

    python benchmarks/curves.py "gates at 1" runs/curve --experiment short \\
      --encoders runs/demo/pretraining/encoders

The flags are those of ``t2ilayers train``, which goes on from stage to stage. The curve is added to
``curves_shapes.json`` under the name.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from common import RESULTS, environment, write

from t2ilayers import SSAGAN
from t2ilayers.data import CaptionedShapes
from t2ilayers.metrics import attribute_accuracy, stage_ious, train_attribute_classifier
from t2ilayers.metrics.attributes import AttributeClassifier

STAGES = (200, 400, 600, 800, 1200, 1600)
SAMPLES = 1000


def measured(model: SSAGAN, classifier: AttributeClassifier) -> dict[str, float]:
    held_out = CaptionedShapes(SAMPLES, image_size=model.config.image_size, split="test", max_objects=1)
    captions = [held_out.sample(i, np.random.default_rng((0, i)))["caption"] for i in range(SAMPLES)]
    drawn = model.generate(captions, seed=0)
    ious = stage_ious(drawn.masks, classifier.foreground(drawn.images))
    return attribute_accuracy(classifier, drawn.images, captions) | {"best mask IoU": ious.best.best}


def main(name: str, out: Path, flags: list[str]) -> None:
    classifier, curve = train_attribute_classifier(32), []
    for i, steps in enumerate(STAGES):
        command = [sys.executable, "-m", "t2ilayers", "train", "--data", "shapes", *flags]
        more = ["--steps", str(steps), "--out", str(out), *(["--resume"] if i else [])]
        subprocess.run([*command, *more], check=True)
        curve.append({"iterations": steps} | measured(SSAGAN.from_pretrained(out / "model"), classifier))
        print(curve[-1], flush=True)
        path = RESULTS / "curves_shapes.json"
        record = json.loads(path.read_text())
        record["curves"][name] = {"environment": environment("cpu"), "after": curve}
        write(path.stem, record)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])

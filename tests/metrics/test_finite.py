"""No metric makes a number of pictures that are not finite."""

import pytest
import torch

from t2ilayers.metrics import (
    PROTOCOLS,
    AttributeClassifier,
    StreamingStatistics,
    attribute_accuracy,
    conditional_frechet_distance,
    data_copying,
    density_coverage,
    frechet_distance,
    inception_score,
    kernel_distance,
    mask_iou,
    nearest_features,
    prompt_diversity,
    r_precision,
    stage_ious,
    vendi_score,
)

CLASSIFIER = AttributeClassifier(16)
FOREGROUND = torch.ones(2, 1, 16, 16, dtype=torch.bool)
METRICS = {
    "attribute_accuracy": ((2, 3, 16, 16), lambda x: attribute_accuracy(CLASSIFIER, x, ["a red star", "a ring"])),
    "predict": ((2, 3, 16, 16), CLASSIFIER.predict),
    "foreground": ((2, 3, 16, 16), CLASSIFIER.foreground),
    "mask_iou": ((2, 1, 8, 8), lambda x: mask_iou(x, FOREGROUND)),
    "stage_ious": ((2, 1, 8, 8), lambda x: stage_ious([torch.zeros(2, 1, 4, 4), x], FOREGROUND)),
    **{name: ((2, 3, 16, 16), protocol.prepare) for name, protocol in PROTOCOLS.items()},
    "statistics": ((2, 5), lambda x: StreamingStatistics(5).update(x)),
    "frechet_distance": ((5,), lambda x: frechet_distance(x, torch.eye(5), torch.zeros(5), torch.eye(5))),
    "inception_score": ((2, 5), lambda x: inception_score(x, splits=1)),
    "r_precision": ((2, 5), lambda x: r_precision(x, torch.zeros(2, 5), torch.arange(2), candidates=2, folds=1)),
    "kernel_distance": ((2, 5), lambda x: kernel_distance(torch.zeros(3, 5), x)),
    "density_coverage": ((2, 5), lambda x: density_coverage(x, torch.zeros(3, 5), neighbours=1)),
    "vendi_score": ((2, 5), lambda x: vendi_score(x + 1)),
    "prompt_diversity": ((2, 5), lambda x: prompt_diversity(x + 1, ["a bird", "a bird"])),
    "nearest_features": ((2, 5), lambda x: nearest_features(torch.zeros(1, 5), x)),
    "data_copying": ((2, 5), lambda x: data_copying(x, torch.zeros(1, 5), torch.zeros(1, 5))),
    "conditional_frechet_distance": (
        (4, 2),
        lambda x: conditional_frechet_distance(torch.eye(4, 2), x, torch.zeros(4, 2)),
    ),
}


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("metric", METRICS)
def test_pictures_that_are_not_finite_are_refused(metric, value):
    shape, measure = METRICS[metric]
    x = torch.zeros(shape)
    measure(x)
    x[(-1,) * len(shape)] = value  # one value of the last picture
    with pytest.raises(ValueError, match="must be finite, got inf or nan"):
        measure(x)

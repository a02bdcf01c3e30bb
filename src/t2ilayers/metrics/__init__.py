"""How good the pictures are: R-precision, attributes that captions name, and what the masks select."""

from .attributes import (
    ATTRIBUTE_CHANCE,
    ATTRIBUTES,
    AttributeClassifier,
    AttributeLogits,
    attribute_accuracy,
    train_attribute_classifier,
)
from .mask_iou import StageIoU, StageIoUs, mask_iou, stage_ious
from .r_precision import RPrecision, r_precision

__all__ = [
    "ATTRIBUTES",
    "ATTRIBUTE_CHANCE",
    "AttributeClassifier",
    "AttributeLogits",
    "RPrecision",
    "StageIoU",
    "StageIoUs",
    "attribute_accuracy",
    "mask_iou",
    "r_precision",
    "stage_ious",
    "train_attribute_classifier",
]

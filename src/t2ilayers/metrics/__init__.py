"""How good the pictures are: FID, IS, R-precision, attributes that captions name, what the masks select."""

from ..data import ATTRIBUTES
from ._inception_score import InceptionScore, inception_score
from ._mask_iou import StageIoU, StageIoUs, mask_iou, stage_ious
from ._r_precision import RPrecision, r_precision
from .attributes import (
    ATTRIBUTE_CHANCE,
    AttributeClassifier,
    AttributeLogits,
    attribute_accuracy,
    train_attribute_classifier,
)
from .clip import CLIPEncoder
from .frechet import GaussianStatistics, StreamingStatistics, frechet_distance
from .inception import InceptionV3
from .picture_statistics import PictureStatistics
from .protocols import PROTOCOLS, Protocol

__all__ = [
    "ATTRIBUTES",
    "ATTRIBUTE_CHANCE",
    "PROTOCOLS",
    "AttributeClassifier",
    "AttributeLogits",
    "CLIPEncoder",
    "GaussianStatistics",
    "InceptionScore",
    "InceptionV3",
    "PictureStatistics",
    "Protocol",
    "RPrecision",
    "StageIoU",
    "StageIoUs",
    "StreamingStatistics",
    "attribute_accuracy",
    "frechet_distance",
    "inception_score",
    "mask_iou",
    "r_precision",
    "stage_ious",
    "train_attribute_classifier",
]

"""How good the pictures are: distances, diversity, R-precision, attributes that captions name, masks."""

from ..data import ATTRIBUTES
from ._conditional_frechet import conditional_frechet_distance
from ._diversity import prompt_diversity, vendi_score
from ._inception_score import InceptionScore, inception_score
from ._kernel_distance import KernelDistance, kernel_distance
from ._mask_iou import StageIoU, StageIoUs, foreground_on_white, mask_iou, stage_ious
from ._neighbours import DensityCoverage, Nearest, data_copying, density_coverage, nearest_features
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
from .outside import JudgedImages, OutsideJudge
from .picture_statistics import PictureStatistics
from .protocols import PROTOCOLS, Protocol

__all__ = [
    "ATTRIBUTES",
    "ATTRIBUTE_CHANCE",
    "PROTOCOLS",
    "AttributeClassifier",
    "AttributeLogits",
    "CLIPEncoder",
    "DensityCoverage",
    "GaussianStatistics",
    "InceptionScore",
    "InceptionV3",
    "JudgedImages",
    "KernelDistance",
    "Nearest",
    "OutsideJudge",
    "PictureStatistics",
    "Protocol",
    "RPrecision",
    "StageIoU",
    "StageIoUs",
    "StreamingStatistics",
    "attribute_accuracy",
    "conditional_frechet_distance",
    "data_copying",
    "density_coverage",
    "foreground_on_white",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "mask_iou",
    "nearest_features",
    "prompt_diversity",
    "r_precision",
    "stage_ious",
    "train_attribute_classifier",
    "vendi_score",
]

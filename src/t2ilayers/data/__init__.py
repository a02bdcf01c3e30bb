"""Datasets of captioned pictures, drawn or read from a folder, and batches by step."""

from .base import CaptionedDataset, Sample
from .batches import Batch, BatchDataset, collate
from .coco import COCODataset
from .cub import CUBDataset
from .folder import CaptionFolder
from .grammar import (
    BACKGROUNDS,
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    TEXTURES,
    ObjectAttributes,
    SceneAttributes,
    named_attributes,
)
from .listing import DatasetError
from .opening import open_dataset
from .shapes import CaptionedShapes

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "PLACES",
    "SHAPES",
    "SIZES",
    "TEXTURES",
    "Batch",
    "BatchDataset",
    "COCODataset",
    "CUBDataset",
    "CaptionFolder",
    "CaptionedDataset",
    "CaptionedShapes",
    "DatasetError",
    "ObjectAttributes",
    "Sample",
    "SceneAttributes",
    "collate",
    "named_attributes",
    "open_dataset",
]

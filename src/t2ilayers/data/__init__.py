"""Datasets of captioned pictures, drawn or read from folders and tar files, and batches by step."""

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
from .shards import CaptionShards

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
    "CaptionShards",
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

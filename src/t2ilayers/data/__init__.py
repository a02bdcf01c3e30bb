"""Datasets of captioned pictures, drawn or read from folders and tar files, and batches by step."""

from .batches import Batch, BatchDataset, collate
from .dataset import CaptionedDataset, Sample
from .drawn.grammar import (
    ATTRIBUTES,
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
from .drawn.shapes import CaptionedShapes
from .open import open_dataset
from .readers.coco import COCODataset
from .readers.cub import CUBDataset
from .readers.folder import CaptionFolder
from .readers.listing import DatasetError
from .readers.shards import CaptionShards

__all__ = [
    "ATTRIBUTES",
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

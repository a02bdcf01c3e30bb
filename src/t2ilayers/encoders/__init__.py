"""Text and image encoders, and the vocabulary between captions and tokens."""

from ..vocabulary import EmptyCaptionError, UnknownWordError, Vocabulary, tokenize
from .image import ConvImageEncoder, ImageFeatures, InceptionImageEncoder
from .text import LSTMTextEncoder, TextFeatures

__all__ = [
    "ConvImageEncoder",
    "EmptyCaptionError",
    "ImageFeatures",
    "InceptionImageEncoder",
    "LSTMTextEncoder",
    "TextFeatures",
    "UnknownWordError",
    "Vocabulary",
    "tokenize",
]

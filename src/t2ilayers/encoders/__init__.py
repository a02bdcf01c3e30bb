"""Text and image encoders, alone and as a pair, and the vocabulary between captions and tokens."""

from ..vocabulary import EmptyCaptionError, UnknownWordError, Vocabulary
from ..words import tokenize
from .image import ConvImageEncoder, ImageFeatures, InceptionImageEncoder
from .pair import EncoderPair
from .text import LSTMTextEncoder, TextFeatures

__all__ = [
    "ConvImageEncoder",
    "EmptyCaptionError",
    "EncoderPair",
    "ImageFeatures",
    "InceptionImageEncoder",
    "LSTMTextEncoder",
    "TextFeatures",
    "UnknownWordError",
    "Vocabulary",
    "tokenize",
]

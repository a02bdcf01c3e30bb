"""Text and image encoders, alone and as a pair, and the vocabulary between captions and tokens."""

from ..vocabulary import EmptyCaptionError, UnknownWordError, Vocabulary
from ..words import tokenize
from .efficientnet import EfficientNetLite0
from .image import ConvImageEncoder, ImageFeatures, InceptionImageEncoder
from .pair import EncoderPair
from .text import LSTMTextEncoder, TextFeatures

__all__ = [
    "ConvImageEncoder",
    "EfficientNetLite0",
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

"""Losses of conditional GANs: hinge, logistic, Wasserstein, gradient penalty, DAMSM.

Letters: ``N`` batch, ``D`` embedding, ``T`` words, ``h w`` grid of image regions, ``C H W`` image. Losses are
computed in float32 at least, also under autocast: half inputs are cast up, float64 stays.
"""

from .adversarial import (
    AdversarialLoss,
    logistic_discriminator_loss,
    logistic_generator_loss,
    wasserstein_discriminator_loss,
)
from .damsm import DAMSMLoss, SentenceLoss, damsm_loss, sentence_loss
from .feature_matching import feature_matching_loss
from .hinge import HingeLoss, hinge_discriminator_loss, hinge_generator_loss
from .pairs import mismatched_pairs
from .penalty import gradient_penalty, matching_aware_gradient_penalty

__all__ = [
    "AdversarialLoss",
    "DAMSMLoss",
    "HingeLoss",
    "SentenceLoss",
    "damsm_loss",
    "feature_matching_loss",
    "gradient_penalty",
    "hinge_discriminator_loss",
    "hinge_generator_loss",
    "logistic_discriminator_loss",
    "logistic_generator_loss",
    "matching_aware_gradient_penalty",
    "mismatched_pairs",
    "sentence_loss",
    "wasserstein_discriminator_loss",
]

"""Published files of the DAMSM encoders."""

from __future__ import annotations

from ..encoders import InceptionImageEncoder, LSTMTextEncoder
from ._format import Format, State, has, need


def _build_text(state: State) -> LSTMTextEncoder:
    embedding, hidden = need(state, "encoder.weight", 2), need(state, "rnn.weight_hh_l0", 2)
    return LSTMTextEncoder(embedding.shape[0], embedding.shape[1], 2 * hidden.shape[1])


FORMATS = (
    Format(
        role="text encoder", name="DAMSM", kind=LSTMTextEncoder,
        knows=has("encoder.weight"), build=_build_text,
        names=lambda encoder: {"encoder.": "embedding.", "rnn.": "rnn."},
    ),
    Format(
        role="image encoder", name="DAMSM", kind=InceptionImageEncoder,
        knows=has("emb_cnn_code.weight"),
        build=lambda state: InceptionImageEncoder(need(state, "emb_cnn_code.weight", 2).shape[0]),
        names=lambda encoder: {"emb_features.": "emb_features.", "emb_cnn_code.": "emb_cnn_code.", "": "trunk."},
    ),
)  # fmt: skip

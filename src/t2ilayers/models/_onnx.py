"""A model's generator and text encoder as ONNX files. Needs the extra ``onnx``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from .._files import written_whole
from ..encoders import LSTMTextEncoder
from ..layers import MaskPredictor

_OPSET = 18


class _Painted(nn.Module):
    """An SSA-GAN's generator whose masks are predicted where those given are negative, pixel by pixel."""

    def __init__(self, generator: Any) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, cond: Tensor, *masks: Tensor) -> tuple[Tensor, ...]:
        x = self.generator.fc(z).unflatten(1, (-1, 4, 4))
        used = []
        for block, given in zip(self.generator.blocks, masks, strict=True):
            predicted = MaskPredictor.to_mask(block.mask_predictor(x), 2 if block.upsample else 1)
            x, mask = block(x, cond, torch.where(given < 0, predicted, given))
            used.append(mask)
        return self.generator.to_image(x), *used


class _Plain(nn.Module):
    """A generator without masks."""

    def __init__(self, generator: Any) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, cond: Tensor) -> Tensor:
        return self.generator(z, cond).images


def write_generator(
    generator: nn.Module,
    path: str | os.PathLike[str],
    *,
    z_dim: int,
    cond_dim: int,
    mask_sides: list[int],
    half: bool = False,
) -> None:
    """Write the generator, in evaluation mode, with a dynamic batch."""
    batch = {0: torch.export.Dim.DYNAMIC}
    names = [f"mask_{side}" for side in mask_sides]
    masks = tuple(-torch.ones(2, 1, side, side) for side in mask_sides)
    program = torch.onnx.export(
        (_Painted(generator) if masks else _Plain(generator)).eval(),
        (torch.zeros(2, z_dim), torch.zeros(2, cond_dim), *masks),
        dynamo=True,
        opset_version=_OPSET,
        input_names=["z", "sentence", *names],
        output_names=["images", *(f"used_{name}" for name in names)],
        dynamic_shapes=(batch, batch, (batch,) * len(masks)) if masks else (batch, batch),
        verbose=False,
    )
    assert program is not None
    _write(program.model_proto, path, half)


def write_text_encoder(encoder: LSTMTextEncoder, path: str | os.PathLike[str], *, half: bool = False) -> None:
    """Write the text encoder, for any number of captions of any length; the graph is written by hand."""
    from onnx import TensorProto, helper, numpy_helper

    rnn, hidden = encoder.rnn, encoder.cond_dim // 2
    weights = {name: value.detach().cpu().float().numpy() for name, value in rnn.named_parameters()}

    def gates(kind: str) -> npt.NDArray[np.float32]:
        """Of both directions, from torch's order of the gates (i, f, g, o) to that of ONNX (i, o, f, g)."""
        directions = []
        for suffix in ("", "_reverse"):
            i, f, g, o = np.split(weights[f"{kind}_l0{suffix}"], 4)
            directions.append(np.concatenate([i, o, f, g]))
        return np.stack(directions)

    arrays = {
        "embedding": encoder.embedding.weight.detach().cpu().float().numpy(),
        "W": gates("weight_ih"),
        "R": gates("weight_hh"),
        "B": np.concatenate([gates("bias_ih"), gates("bias_hh")], axis=1),
        "words_shape": np.array([0, 2 * hidden, -1]),
        "sentence_shape": np.array([0, 2 * hidden]),
    }
    nodes = [
        helper.make_node("Gather", ["embedding", "tokens"], ["embedded"]),
        helper.make_node("Transpose", ["embedded"], ["in_time"], perm=[1, 0, 2]),
        helper.make_node(
            "LSTM", ["in_time", "W", "R", "B", "lengths"], ["states", "last"],
            hidden_size=hidden, direction="bidirectional",
        ),
        helper.make_node("Transpose", ["states"], ["by_caption"], perm=[2, 1, 3, 0]),
        helper.make_node("Reshape", ["by_caption", "words_shape"], ["words"]),
        helper.make_node("Transpose", ["last"], ["ends"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["ends", "sentence_shape"], ["sentence"]),
    ]  # fmt: skip
    inputs = [
        helper.make_tensor_value_info("tokens", TensorProto.INT64, ["N", "T"]),
        helper.make_tensor_value_info("lengths", TensorProto.INT32, ["N"]),
    ]
    outputs = [
        helper.make_tensor_value_info("words", TensorProto.FLOAT, ["N", 2 * hidden, "T"]),
        helper.make_tensor_value_info("sentence", TensorProto.FLOAT, ["N", 2 * hidden]),
    ]
    initializers = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "text_encoder", inputs, outputs, initializers)
    opset = [helper.make_opsetid("", _OPSET)]
    _write(helper.make_model(graph, opset_imports=opset, ir_version=10), path, half)


def _write(model: Any, path: str | os.PathLike[str], half: bool) -> None:
    import onnx

    if half:
        _halve(model.graph)
    onnx.checker.check_model(model)
    with written_whole(path) as temporary:
        Path(temporary).write_bytes(model.SerializeToString())


def _halve(graph: Any) -> None:
    """Keep weights in half precision, and cast them back where they are used."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype != np.float32 or array.size < 2:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)

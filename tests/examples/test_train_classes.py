"""The example of classes, for a few steps."""

import importlib.util
from pathlib import Path

import torch
from PIL import Image

from t2ilayers.data import CaptionedShapes
from t2ilayers.models import ProjectionGenerator

SCRIPT = Path(__file__).parents[2] / "examples" / "train_classes.py"


def script():
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_trains_and_draws_every_class(tmp_path, capsys):
    flags = [
        "--steps",
        "2",
        "--batch-size",
        "4",
        "--width",
        "8",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "run"),
    ]
    script().main(flags)
    assert "step 1  discriminator" in capsys.readouterr().out
    with Image.open(tmp_path / "run" / "classes.png") as sheet:
        assert sheet.size[0] > 8 * 96
    generator = ProjectionGenerator(32, 8, z_dim=64, num_classes=48)
    start = {key: value.clone() for key, value in generator.state_dict().items()}
    generator.load_state_dict(torch.load(tmp_path / "run" / "generator.pt", weights_only=True))
    assert not torch.equal(generator.fc.weight, start["fc.weight"])


def test_classes_have_their_names():
    names, shapes = script().NAMES, CaptionedShapes(200, image_size=32, max_objects=1)
    assert len(names) == 48
    for index, class_id in enumerate(shapes.class_ids):
        colour, shape = names[class_id].split()
        captions = " ".join(shapes.captions(index))
        assert {colour, shape} <= set(captions.split())

"""A dataset by one word, with options; what the validator says of it; and whether data changed under a run."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from t2ilayers.data import CaptionedShapes, CaptionFolder, DatasetError, open_dataset
from t2ilayers.data.open import read_spec
from t2ilayers.data.validate import main as validate


def picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="PNG")


@pytest.fixture
def coco(tmp_path):
    """COCO's own layout, with one, two, seven and no caption for its four pictures."""
    for part in ("train2017", "val2017"):
        images, annotations = [], []
        for n, count in enumerate((1, 2, 7, 0)):
            picture(tmp_path / part / f"{n}.jpg")
            images.append({"id": n, "file_name": f"{n}.jpg"})
            annotations += [{"image_id": n, "caption": f"bird {k}"} for k in range(count)]
        path = tmp_path / f"annotations/captions_{part}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return tmp_path


def test_coco_takes_the_captions_that_there_are_or_as_many_as_were_asked_for(coco):
    with pytest.warns(UserWarning, match=r"left out 2 pictures without a caption: '3\.jpg'$"):
        dataset = open_dataset(f"coco:{coco}", image_size=16)
    assert [len(dataset.captions(n)) for n in range(len(dataset))] == [1, 2, 5]
    with pytest.raises(DatasetError, match=r"'0\.jpg': 1 captions with a word, must be captions_per_image = 2"):
        open_dataset(f"coco:{coco}?captions_per_image=2", image_size=16)


def test_pictures_that_no_list_names_are_told(coco):
    for name in ("train2017/9.jpg", "train2017/sub/8.jpg"):
        picture(coco / name)
    with pytest.warns(UserWarning, match="left out") as caught:
        open_dataset(f"coco:{coco}", image_size=16)
    said = "left out 2 files that no list names: 'train2017/9.jpg', 'train2017/sub/8.jpg'"
    assert said in [str(warning.message).removeprefix(f"{coco}: ") for warning in caught]


def test_the_validator_tells_what_is_left_out_and_what_is_cut(coco, capsys):
    path = coco / "annotations/captions_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["caption"] = "bird " * 19
    path.write_text(json.dumps(content))
    assert validate([f"coco:{coco}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "train: note: left out 2 pictures without a caption: '3.jpg'",
        "train: note: left out 4 captions after the first 5 of their pictures: '2.jpg'",
        "train: note: 1 captions have more than 18 words, of which 18 are drawn each time; the first is "
        + repr(("bird " * 19).strip())[:38] + "..." + repr(("bird " * 19).strip())[-39:],
        "train: 3 pictures, 8 captions, 7 words",
        "test: 3 pictures, 8 captions, 7 words",
        "no problems",
    ]  # fmt: skip


def test_drawn_shapes_need_no_check(capsys):
    assert validate(["shapes"]) == 0
    assert capsys.readouterr().out == "drawn shapes need no check: nothing of them is read from a disk\n"


def test_a_path_with_a_question_mark_is_a_path(tmp_path):
    folder = tmp_path / "mine?max_words=3"
    for n in range(2):
        picture(folder / f"{n}.png")
        (folder / f"{n}.txt").write_text("a bird")
    assert open_dataset(str(folder), image_size=16).max_words == 18
    folder.rename(tmp_path / "mine")
    assert open_dataset(str(folder), image_size=16).max_words == 3
    assert read_spec(f"{tmp_path}/mine?tokenizer=characters&max_words=40")[2] == {
        "tokenizer": "characters",
        "max_words": 40,
    }


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("captions_per_image=2", "the options of folder: must be of max_words, one_caption, tokenizer"),
        ("max_words=0", "max_words must be a number from 1, got '0'"),
        ("max_words=" + "9" * 5000, "max_words must be a number from 1, got '999"),
        ("max_words=many", "max_words must be a number from 1, got 'many'"),
        ("one_caption=1", "one_caption must be true or false"),
        ("one_caption", "one_caption must be true or false"),
        ("tokenizer=own", "tokenizer must be words or characters or ascii"),
    ],
)
def test_wrong_options_are_said(tmp_path, options, says):
    with pytest.raises(ValueError, match=says) as caught:
        open_dataset(f"{tmp_path}?{options}")
    assert len(str(caught.value)) < 600


def birds(root):
    for n in range(6):
        picture(root / f"{n}.png", seed=n)
        (root / f"{n}.txt").write_text(f"bird {n}")
    return root


def test_a_digest_depends_on_the_data_and_not_on_its_place(tmp_path):
    def digest(root, **options):
        return CaptionFolder(root, **{"split": None, "image_size": 16, **options}).digest()

    before = digest(birds(tmp_path / "a"))
    assert digest(shutil.copytree(tmp_path / "a", tmp_path / "b")) == before
    assert digest(tmp_path / "a", augment=True, image_size=32, seed=4) == before
    changes = {
        "caption": lambda root: (root / "3.txt").write_text("bird 4"),
        "picture": lambda root: picture(root / "3.png", seed=9),
        "more": lambda root: (
            shutil.copy(root / "3.png", root / "3b.png") and (root / "3b.txt").write_text("bird 3")
        ),
        "fewer": lambda root: [(root / f"3{suffix}").unlink() for suffix in (".png", ".txt")],
    }
    for name, change in changes.items():
        change(shutil.copytree(tmp_path / "a", tmp_path / name))
        assert digest(tmp_path / name) != before, name
    assert CaptionedShapes(9, 16).digest() != CaptionedShapes(9, 16, split="test").digest()

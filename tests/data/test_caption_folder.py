"""A folder of one's own: three ways to list it, and every problem said before training starts."""

import json
import shutil
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from t2ilayers.data import CaptionedShapes, CaptionFolder, DatasetError, listed, open_dataset


def picture(path, size=(24, 20), colour=(200, 30, 30), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)


def rows(root, *entries, name="captions.jsonl"):
    (root / name).write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")


def problems(root, **options) -> str:
    with pytest.raises(DatasetError) as caught:
        CaptionFolder(root, **{"split": None, "image_size": 16, **options})
    return str(caught.value)


@pytest.fixture
def birds(tmp_path):
    """Six pictures in two splits with classes."""
    entries = []
    for n in range(6):
        picture(tmp_path / f"images/{n}.png", colour=(40 * n, 0, 255 - 40 * n))
        entries.append(
            {
                "file": f"images/{n}.png",
                "captions": [f"bird number {n}", "a bird"],
                "split": "train" if n < 4 else "val",
                "species": ["wren", "crow", "tit"][n % 3],
            }
        )
    rows(tmp_path, *entries)
    return tmp_path


def test_captions_jsonl(birds):
    train, test = (
        CaptionFolder(birds, split=split, image_size=16, class_field="species") for split in ("train", "test")
    )
    assert [train.key(n) for n in range(4)] == [f"images/{n}.png" for n in range(4)]
    assert test.captions(1) == ("bird number 5", "a bird")
    # Ids are those of the species in alphabetical order, in both splits.
    assert train.class_ids.tolist() == [2, 0, 1, 2]
    assert test.class_ids.tolist() == [0, 1]
    assert train.vocabulary == test.vocabulary
    assert train.vocabulary.words == ("<end>", "0", "1", "2", "3", "4", "5", "a", "bird", "number")
    sample = train[2]
    assert sample["image"].shape == (3, 16, 16)
    assert sample["caption"] in train.captions(2)
    expected = torch.tensor([80, 0, 175]) / 127.5 - 1
    torch.testing.assert_close(sample["image"][:, 8, 8], expected)
    assert len(CaptionFolder(birds, split=None, image_size=16)) == 6


def test_without_a_class_each_picture_is_its_own(birds):
    ids = [CaptionFolder(birds, split=split, image_size=16).class_ids.tolist() for split in ("train", "test")]
    assert ids == [[0, 1, 2, 3], [4, 5]]


def test_hugging_face_metadata_gathers_the_captions_of_a_file(tmp_path):
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    entries = [("a.png", "a red bird, small"), ("b.png", "a crow"), ("a.png", "one bird")]
    rows(tmp_path, *({"file_name": f, "text": t} for f, t in entries), name="metadata.jsonl")
    from_json = CaptionFolder(tmp_path, split=None, image_size=16)
    (tmp_path / "metadata.jsonl").unlink()
    lines = ["file_name,text", *(f'{f},"{t}"' for f, t in entries)]
    (tmp_path / "metadata.csv").write_text("\r\n".join(lines), encoding="utf-8-sig")
    from_csv = CaptionFolder(tmp_path, split=None, image_size=16)
    for dataset in (from_json, from_csv):
        assert [dataset.captions(n) for n in range(2)] == [("a red bird, small", "one bird"), ("a crow",)]


def test_text_beside_pictures(tmp_path):
    picture(tmp_path / "b/two.JPG", format="JPEG")
    picture(tmp_path / "one.png")
    (tmp_path / "one.txt").write_text("a bird\n\n a red bird \n")
    (tmp_path / "README.txt").write_text("not a caption")
    assert "two.txt" in problems(tmp_path)
    (tmp_path / "b/two.txt").write_text("a crow")
    with pytest.warns(UserWarning, match=r"1 files that are neither pictures nor captions .*: 'README\.txt'$"):
        dataset = CaptionFolder(tmp_path, split=None, image_size=16)
    assert [dataset.key(n) for n in range(2)] == ["b/two.JPG", "one.png"]
    assert dataset.captions(1) == ("a bird", "a red bird")


def test_splits_by_name_are_stable_and_of_the_asked_size(tmp_path):
    picture(tmp_path / "0.png")
    for n in range(1, 200):
        shutil.copy(tmp_path / "0.png", tmp_path / f"{n}.png")
    listed = [{"file": f"{n}.png", "captions": ["a bird"]} for n in range(200)]
    rows(tmp_path, *listed)

    def keys(split):
        dataset = CaptionFolder(tmp_path, split=split, image_size=16, test_fraction=0.25)
        return {dataset.key(n) for n in range(len(dataset))}

    train, test = keys("train"), keys("test")
    assert train | test == {entry["file"] for entry in listed}
    assert not train & test
    assert 30 < len(test) < 70
    rows(tmp_path, *reversed(listed[:100]))
    for n in range(100, 200):
        (tmp_path / f"{n}.png").unlink()
    assert keys("test") == {name for name in test if int(name[:-4]) < 100}
    assert "no picture in split 'test' of 100" in problems(tmp_path, split="test", test_fraction=0.0)


def test_pictures_are_cut_square_upright_on_white(tmp_path):
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255  # the central square is white, the rest black
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.new("RGBA", (20, 20), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    clear_palette = Image.new("P", (20, 20), 0)
    clear_palette.putpalette([255, 0, 0] * 256)
    clear_palette.save(tmp_path / "palette.png", transparency=0)
    Image.fromarray(np.full((20, 20), 0x8000, np.uint16)).save(tmp_path / "deep.png")
    half = np.zeros((20, 20, 3), np.uint8)
    half[:10] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(half).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    Image.new("L", (1, 3000), 255).save(tmp_path / "thin.gif")
    names = ["wide.png", "clear.png", "palette.png", "deep.png", "turned.jpg", "thin.gif"]
    rows(tmp_path, *({"file": name, "captions": ["a bird"]} for name in names))
    dataset = CaptionFolder(tmp_path, split=None, image_size=16)
    images = {name: dataset.image(n) for n, name in enumerate(names)}
    for name in ("wide.png", "clear.png", "palette.png", "thin.gif"):
        assert images[name].min() > 0.9, name
    torch.testing.assert_close(images["deep.png"], torch.full((3, 16, 16), 128 / 127.5 - 1))
    assert images["turned.jpg"][:, :6].max() < -0.9
    assert images["turned.jpg"][:, 10:].min() > 0.9


def test_augmentation_crops_and_mirrors_by_rng_only(tmp_path):
    ramp = np.broadcast_to(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], (60, 60, 3))
    Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "ramp.png")
    rows(tmp_path, {"file": "ramp.png", "captions": ["a ramp"]})
    plain = CaptionFolder(tmp_path, split=None, image_size=64)
    assert torch.equal(plain.image(0), plain.image(0, np.random.default_rng(1)))
    augmented = CaptionFolder(tmp_path, split=None, image_size=64, augment=True)
    images = [augmented.image(0, np.random.default_rng(n)) for n in range(40)]
    rising = [bool(image[0, 0, -1] > image[0, 0, 0]) for image in images]
    assert 8 < sum(rising) < 32
    starts = {float(image[0, 0, 0]) for image, up in zip(images, rising, strict=True) if up}
    assert len(starts) > 5
    assert torch.equal(images[7], augmented.image(0, np.random.default_rng(7)))
    assert torch.equal(augmented.image(0), augmented.image(0))
    assert all(image.shape == (3, 64, 64) and image.is_contiguous() for image in images)


@pytest.mark.parametrize("kept", [True, False])
def test_pictures_too_many_to_keep_are_read_again(birds, kept, monkeypatch):
    monkeypatch.setattr(listed, "_CACHE_BYTES", 2**29 if kept else 0)
    dataset = CaptionFolder(birds, split="train", image_size=16)
    before = dataset.image(1)
    (birds / "images/1.png").write_bytes(b"gone")
    if kept:
        assert torch.equal(dataset.image(1), before)
    else:
        with pytest.raises(DatasetError, match=r"images/1\.png"):
            dataset.image(1)


def bomb(path):
    """A valid header for 60,000 x 60,000 pixels with next to nothing behind it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))


def test_all_problems_are_said_at_once(birds, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    picture(outside / "secret.png")
    (outside / "secret").write_text("not a picture")
    (birds / "link.png").symlink_to(outside / "secret")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(birds / "whole.png")
    data = (birds / "whole.png").read_bytes()
    (birds / "truncated.png").write_bytes(data[: len(data) // 2])
    (birds / "damaged.png").write_bytes(data[:3000] + bytes(50) + data[3050:])
    (birds / "empty.png").write_bytes(b"")
    (birds / "text.png").write_text("not a picture")
    Image.new("F", (20, 20)).save(birds / "float.tiff")
    bomb(birds / "bomb.png")
    good = {"captions": ["a bird"], "split": "train"}
    bad = {
        "missing.png": good,
        "../outside.png": good,
        str(outside / "secret.png"): good,
        "link.png": good,
        "truncated.png": good,
        "damaged.png": good,
        "empty.png": good,
        "text.png": good,
        "float.tiff": good,
        "bomb.png": good,
        "images/2.png": {"captions": ["a\0bird"], "split": "train"},
        "images/3.png": {"captions": [3], "split": "train"},
        "images/4.png": {"captions": ["a bird"], "split": "holdout"},
        "images/5.png": {"captions": ["a bird"]},
        "whole.png": {**good, "class_id": [1]},
    }
    rows(birds, *({"file": name, **entry} for name, entry in bad.items()))
    with pytest.raises(DatasetError) as caught:
        CaptionFolder(birds, split=None, image_size=16)
    assert len(caught.value.problems) == len(bad)
    text = "\n".join(caught.value.problems)
    for name in bad:
        assert sum(repr(name) in line for line in text.splitlines()) == 1, name
    for says in (
        "leads outside",
        "NUL",
        "truncated",
        "'holdout'",
        "no split",
        "mode 'F'",
    ):
        assert says in text


def test_the_list_of_problems_is_short(tmp_path):
    rows(tmp_path, *({"file": f"{n}.png", "captions": ["a bird"]} for n in range(50)))
    text = problems(tmp_path)
    assert "has 50 problems" in text
    assert text.endswith("(+30 more)")
    assert len(text.splitlines()) == 22


def test_pictures_of_the_other_split_must_exist_too(birds):
    (birds / "images/5.png").unlink()
    assert "'images/5.png': there is no such file" in problems(birds, split="train")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "line 1: not JSON"),
        ("[1]", "line 1: a row must be an object"),
        ('{"file": "a.png"}', "line 1: a row must be an object with 'file' and 'captions'"),
        ('{"file": 3, "captions": ["a"]}', "must be a file name, got 3"),
        ('{"file": "a\\u0000.png", "captions": ["a"]}', "must be a file name, got"),
        ('{"file": "\\ud800.png", "captions": ["a"]}', "ud800.png'"),
        ('{"file": "a.png", "captions": ["a"]}\n\n{"file": "a.png", "captions": ["b"]}', "listed twice"),
        ("[" * 100_000, "line 1: not JSON"),
        ("", "no picture in split None of 0"),
    ],
)
def test_rows_that_cannot_be_read(tmp_path, content, says):
    picture(tmp_path / "a.png")
    (tmp_path / "captions.jsonl").write_text(content)
    assert says in problems(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"file,caption\na.png,x\n", "columns must include file_name and text"),
        (b"file_name,text\na.png\n", "line 2: a row must have one value for each column"),
        (b"file_name,text\na.png,a bird,small\n", "line 2: a row must have one value for each column"),
        (b'file_name,text\na.png,"a bird', "not CSV"),
        (b"file_name,text\na.png,\xff\n", "not UTF-8"),
        (b"file_name,text,split\na.png,a,train\na.png,b,test\n", "another split or class"),
    ],
)
def test_csv_that_cannot_be_read(tmp_path, content, says):
    picture(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_bytes(content)
    assert says in problems(tmp_path)


def test_an_empty_folder_and_no_folder(tmp_path):
    assert "is this the right folder?" in problems(tmp_path)
    for opened in (CaptionFolder, open_dataset):
        with pytest.raises(NotADirectoryError, match="nowhere"):
            opened(tmp_path / "nowhere")


def test_a_wordless_caption_beside_others_is_left_out_with_a_warning(birds):
    pictures = ["a bird", "...", ""], ["!"], [], None, float("nan"), ["a crow"]
    rows(birds, *({"file": f"images/{n}.png", "captions": row} for n, row in enumerate(pictures)))
    with pytest.warns(UserWarning, match="left out") as caught:
        dataset = CaptionFolder(birds, split=None, image_size=16)
    assert [str(warning.message).partition(": ")[2] for warning in caught] == [
        "left out 2 captions without a word, of 'images/0.png', 'images/1.png'",
        "left out 4 pictures without a caption: 'images/1.png', 'images/2.png', 'images/3.png', 'images/4.png'",
    ]
    assert [dataset.captions(n) for n in range(len(dataset))] == [("a bird",), ("a crow",)]
    rows(birds, {"file": "images/0.png", "captions": [""]})
    assert "no picture in split None of 0" in problems(birds)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"split": "val"}, "split must be"),
        ({"image_size": 8}, "image_size must be at least 16"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"test_fraction": 1.5}, "test_fraction must lie in"),
    ],
)
def test_wrong_arguments(birds, options, says):
    with pytest.raises(ValueError, match=says):
        CaptionFolder(birds, **options)


def test_open_dataset_takes_the_word_or_the_path(birds):
    shapes = open_dataset("shapes", "test", image_size=32, seed=5)
    assert isinstance(shapes, CaptionedShapes)
    assert torch.equal(shapes.image(3), CaptionedShapes(4, 32, split="test", seed=5).image(3))
    dataset = open_dataset(str(birds), "test", image_size=16)
    assert len(dataset) == 2
    assert dataset.image_size == 16


@pytest.mark.parametrize("count", [2, 3, 10])
def test_a_small_folder_has_both_splits(tmp_path, count):
    for n in range(count):
        Image.new("RGB", (16, 16), (n, 0, 0)).save(tmp_path / f"{n}.png")
        (tmp_path / f"{n}.txt").write_text("a bird")
    train, test = (CaptionFolder(tmp_path, split=split, image_size=16) for split in ("train", "test"))
    assert len(train) + len(test) == count
    assert min(len(train), len(test)) >= 1

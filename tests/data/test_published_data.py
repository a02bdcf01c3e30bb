"""Birds and COCO in the layouts that are published, drawn here in small, and what is said when they are wrong."""

import json
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from t2ilayers.data import COCODataset, CUBDataset, DatasetError, open_dataset
from t2ilayers.data.pictures import crop, read_short_side
from t2ilayers.data.readers.attngan import read_caption_pickle
from t2ilayers.data.validate import main as validate
from t2ilayers.encoders import Vocabulary

BIRDS = {
    "train": ["001.Tit/Tit_01", "001.Tit/Tit_02", "002.Crow/Crow_01"],
    "test": ["003.Wren/Wren_01", "003.Wren/Wren_02"],
}
COCO = {
    "train": ["COCO_train2014_000000000009", "COCO_train2014_000000000025"],
    "test": ["COCO_val2014_000000000042"],
}


def picture(path, seed=0, size=(50, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, format="PNG")  # whatever the name says; PNG gives the pixels back


def dump(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))


def words(caption):
    return re.sub("[^a-z0-9]+", " ", caption.lower()).split()


def captions_of(name, count):
    return [f"The {name[-7:-3]}'s picture, n{k} of {name[-2:]}." for k in range(count)]


def write_family(root, splits, count, folder):
    """A tree as the published code writes it, with words numbered as they come."""
    order, texts = ["<end>"], {"train": [], "test": []}
    for split, names in splits.items():
        dump(root / split / "filenames.pickle", names)
        for n, name in enumerate(names):
            picture(root / folder(name) / f"{name}.jpg", seed=n)
            captions = captions_of(name, count + 2)
            path = root / "text" / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(["", "...", *captions]) + "\n", encoding="utf-8")
            texts[split] += map(words, captions[:count])
    order += dict.fromkeys(word for rows in texts.values() for row in rows for word in row)
    ids = [[[order.index(word) for word in row] for row in texts[split]] for split in ("train", "test")]
    dump(root / "captions.pickle", [*ids, dict(enumerate(order)), {word: n for n, word in enumerate(order)}])
    return order, ids


@pytest.fixture
def birds(tmp_path):
    root = tmp_path / "birds"
    write_family(root, BIRDS, 10, lambda _: "CUB_200_2011/images")
    (root / "train/class_info.pickle").write_bytes(b"(lp0\nI1\naI1\naI2\na.")  # as Python 2 wrote it
    names = BIRDS["train"] + BIRDS["test"]
    folder = root / "CUB_200_2011"
    (folder / "images.txt").write_text("".join(f"{n} {name}.jpg\n" for n, name in enumerate(names, 1)))
    (folder / "bounding_boxes.txt").write_text("".join(f"{n} 10.0 8.0 20.0 12.0\n" for n in range(1, 6)))
    return root


@pytest.fixture
def coco(tmp_path):
    """Both of COCO's layouts over the same pictures."""
    root = tmp_path / "coco"
    write_family(root, COCO, 5, lambda name: name.split("_")[1])
    for split, part in (("train", "train2014"), ("test", "val2014")):
        images = [{"id": 7 + n, "file_name": f"{name}.jpg"} for n, name in enumerate(COCO[split])]
        rows = [
            {"image_id": 7 + n, "id": k, "caption": caption.replace(" p", "\np") + "\n"}
            for k in range(5)
            for n, name in enumerate(COCO[split])
            for caption in captions_of(name, 5)[k : k + 1]
        ]
        path = root / f"annotations/captions_{part}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"info": {}, "images": images, "annotations": rows}))
    return root


def problems(opened, *arguments, **options) -> str:
    with pytest.raises(DatasetError) as caught:
        opened(*arguments, **{"image_size": 16, **options})
    return str(caught.value)


def test_birds(birds):
    dataset = CUBDataset(birds, "train", image_size=32)
    test = CUBDataset(birds, "test", image_size=32)
    assert [dataset.key(n) for n in range(len(dataset))] == BIRDS["train"]
    assert dataset.captions(1) == tuple(captions_of(BIRDS["train"][1], 10))
    assert dataset.class_ids.tolist() == [1, 1, 2]
    assert test.class_ids.tolist() == [0, 1]  # no class_info.pickle: each its own
    sample = dataset[2]
    assert sample["key"] == "002.Crow/Crow_01"
    assert sample["class_id"] == 2
    assert sample["image"].shape == (3, 32, 32)
    assert sample["image"].dtype == torch.float32
    assert sample["image"].abs().max() <= 1
    assert test.vocabulary == dataset.vocabulary


def test_tokens_are_the_published_ids(birds):
    train, test = pickle.loads((birds / "captions.pickle").read_bytes())[:2]
    for split, ids in (("train", train), ("test", test)):
        dataset = CUBDataset(birds, split, image_size=16)
        for index in range(len(dataset)):
            rows = [dataset.vocabulary.encode(caption) for caption in dataset.captions(index)]
            assert rows == ids[10 * index : 10 * index + 10]


def test_without_text_the_captions_are_those_of_the_pickle(birds):
    with_text = CUBDataset(birds, image_size=16)
    (birds / "text").rename(birds / "elsewhere")
    dataset = CUBDataset(birds, image_size=16)
    assert dataset.captions(0)[3] == " ".join(words(with_text.captions(0)[3]))
    assert torch.equal(dataset[0]["tokens"], with_text[0]["tokens"])


def test_without_a_pickle_the_vocabulary_is_that_of_both_splits(birds):
    (birds / "captions.pickle").unlink()
    vocabularies = [CUBDataset(birds, split, image_size=16).vocabulary for split in ("train", "test")]
    expected = {
        word for names in BIRDS.values() for name in names for c in captions_of(name, 10) for word in words(c)
    }
    assert vocabularies[0].words == vocabularies[1].words == ("<end>", *sorted(expected))


def test_a_vocabulary_of_ones_own(birds):
    own = Vocabulary(["<end>", *sorted(CUBDataset(birds, image_size=16).vocabulary.words[1:], reverse=True)])
    dataset = CUBDataset(birds, image_size=16, vocabulary=own)
    assert dataset.vocabulary is own
    assert own.decode(dataset[0]["tokens"].tolist()).split() == words(dataset[0]["caption"])
    says = problems(CUBDataset, birds, vocabulary=Vocabulary([word for word in own if word not in ("n3", "n4")]))
    assert says.count("words that the vocabulary lacks: 'n3', 'n4'") == 3


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((10, 8, 20, 12), (0, 29), (5, 35)),  # half-side 15 about (20, 14): cut off above
        ((40, 20, 9, 11), (17, 33), (36, 50)),  # 8 about (44, 25): cut off at the right
        ((0, 0, 50, 40), (0, 40), (0, 50)),  # 37 about (25, 20): the whole picture
    ],
)
def test_the_cut_about_a_box(tmp_path, box, rows, columns):
    picture(tmp_path / "a.png")
    expected = np.asarray(Image.open(tmp_path / "a.png"))[slice(*rows), slice(*columns)]
    # Asked for in its own size, nothing is resized.
    np.testing.assert_array_equal(read_short_side(tmp_path / "a.png", min(expected.shape[:2]), box), expected)


def test_evaluation_takes_the_centre_and_training_a_random_mirrored_square(birds):
    path = birds / "CUB_200_2011/images" / f"{BIRDS['train'][0]}.jpg"
    cut = Image.open(path).crop((5, 0, 35, 29)).resize((int(38 * 30 / 29), 38), Image.Resampling.BILINEAR)
    whole = torch.from_numpy(np.array(cut)).permute(2, 0, 1) / 127.5 - 1  # 38 = int(32 * 76 / 64) rows, 39 columns
    plain = CUBDataset(birds, image_size=32)
    torch.testing.assert_close(plain.image(0), whole[:, 3:35, 3:35])
    assert torch.equal(plain.image(0, np.random.default_rng(1)), plain.image(0))
    augmented = CUBDataset(birds, image_size=32, augment=True)
    assert torch.equal(augmented.image(0), plain.image(0))
    squares = whole.unfold(1, 32, 1).unfold(2, 32, 1)  # (3, 7, 8, 32, 32)
    found = set()
    for seed in range(60):
        image = augmented.image(0, np.random.default_rng(seed))
        for mirrored in (False, True):
            candidate = image.flip(2) if mirrored else image
            same = (squares - candidate[:, None, None]).abs().amax(dim=(0, 3, 4)) < 1e-5
            found |= {(*place, mirrored) for place in same.nonzero().tolist()}
    assert {place[0] for place in found} == set(range(7))
    assert {place[1] for place in found} == set(range(8))
    assert 60 >= len(found) > 30
    assert 0.25 < sum(place[2] for place in found) / len(found) < 0.75


def test_a_crop_of_the_whole_picture():
    whole = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    torch.testing.assert_close(crop(whole, 16, None), torch.from_numpy(whole).permute(2, 0, 1) / 127.5 - 1)


@pytest.mark.parametrize("folder", ["images", "images/{part}", "{part}"])
def test_coco_pictures_lie_in_any_of_three_places(tmp_path, folder):
    write_family(tmp_path, COCO, 5, lambda name: folder.format(part=name.split("_")[1]))
    for split in ("train", "test"):
        dataset = COCODataset.from_folder(tmp_path, split, image_size=16)
        assert [dataset.key(n) for n in range(len(dataset))] == COCO[split]
        assert dataset[0]["image"].shape == (3, 16, 16)


def test_both_routes_to_coco_agree(coco):
    family = [COCODataset.from_folder(coco, split, image_size=16) for split in ("train", "test")]
    for split in ("train", "test"):
        (coco / split / "filenames.pickle").unlink()
    own = [COCODataset.from_folder(coco, split, image_size=16) for split in ("train", "test")]
    assert own[0].vocabulary == own[1].vocabulary
    assert sorted(own[0].vocabulary) == sorted(family[0].vocabulary)
    alone = COCODataset(
        coco / "train2014",
        coco / "annotations/captions_train2014.json",
        image_size=16,
        vocabulary=family[0].vocabulary,
    )
    assert set(
        COCODataset(alone.root, coco / "annotations/captions_train2014.json", image_size=16).vocabulary
    ) < set(own[0].vocabulary)
    for first, second in ((family[0], own[0]), (family[1], own[1]), (family[0], alone)):
        assert len(first) == len(second)
        for n in range(len(first)):
            assert (first.key(n), first.captions(n)) == (second.key(n), second.captions(n))
            assert torch.equal(first.image(n), second.image(n))
    assert torch.equal(alone[1]["tokens"], family[0][1]["tokens"])


def test_a_long_caption_gives_18_words_in_order(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.jpg")
    caption = " ".join(f"w{n:02d}" for n in range(30))
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": caption}]}
    (tmp_path / "captions.json").write_text(json.dumps(content))
    dataset = COCODataset(tmp_path, tmp_path / "captions.json", image_size=16, captions_per_image=1)
    drawn = [dataset.sample(0, np.random.default_rng(seed)) for seed in range(30)]
    assert {sample["length"] for sample in drawn} == {18}
    assert all(bool((sample["tokens"].diff() > 0).all()) for sample in drawn)
    assert len({tuple(sample["tokens"].tolist()) for sample in drawn}) > 20


def test_open_dataset_names_them(birds, coco):
    opened = open_dataset(f"cub:{birds}", "test", image_size=16, augment=True)
    assert isinstance(opened, CUBDataset)
    assert opened.augment
    assert len(opened) == 2
    assert isinstance(open_dataset(f"coco:{coco}", image_size=16), COCODataset)
    for spec in ("cub:", "coco:nowhere", "birds:x"):
        with pytest.raises(NotADirectoryError):
            open_dataset(spec)


def shuffle_names(root):
    dump(root / "train/filenames.pickle", BIRDS["train"][::-1])


def other_words(root):
    train, test, words_by_id, _ = pickle.loads((root / "captions.pickle").read_bytes())
    turned = {0: "<end>"} | {len(words_by_id) - n: word for n, word in words_by_id.items() if n}
    dump(root / "captions_DAMSM.pickle", [train, test, turned, {word: n for n, word in turned.items()}])


def hostile(root):
    (root / "train/filenames.pickle").write_bytes(
        b"c__builtin__\nopen\n(S'" + bytes(root / "ran") + b"'\nS'w'\ntR."
    )


def text(content):
    def write(root):
        (root / "text/001.Tit/Tit_02.txt").write_bytes(content)

    return write


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (shuffle_names, r"'001\.Tit/Tit_01': caption 1 is .* in text/ and .* in the caption pickle"),
        (other_words, "captions.pickle and captions_DAMSM.pickle number different words"),
        (
            hostile,
            r"train/filenames\.pickle is no pickle of plain data: it asks for __builtin__\.open, which was not",
        ),
        (
            lambda root: dump(root / "train/filenames.pickle", {"a": 1}),
            "it must hold a list of names, got {'a': 1}",
        ),
        (
            lambda root: dump(root / "train/filenames.pickle", ["a", "../../b"]),
            r"'\.\./\.\./b': the name leads outside",
        ),
        (lambda root: dump(root / "train/filenames.pickle", ["/etc/b"]), "'/etc/b': the name leads outside"),
        (lambda root: dump(root / "train/filenames.pickle", ["a\0b"]), r"a file name, got 'a\\x00b'"),
        (lambda root: dump(root / "train/filenames.pickle", ["a", 3]), "a file name, got 3"),
        (lambda root: dump(root / "train/filenames.pickle", ["a", "a"]), "'a' is listed twice"),
        (
            lambda root: dump(root / "train/filenames.pickle", BIRDS["train"][:2]),
            "10 captions for each of 2 .* got 30",
        ),
        (
            lambda root: dump(root / "train/class_info.pickle", [1, 2]),
            r"each of 3 names, got \[1, 2\]",
        ),
        (lambda root: dump(root / "train/class_info.pickle", ["a"] * 3), "each of 3 names, got .'a', 'a', 'a'."),
        (lambda root: dump(root / "captions.pickle", [[], []]), r"captions\.pickle holds no \[train_captions"),
        (
            lambda root: dump(root / "captions.pickle", [[[1]], [], {0: "<end>"}, {"<end>": 0}]),
            r"word id outside \[1, 1\)",
        ),
        (
            lambda root: dump(root / "captions.pickle", [[], [], {0: "<end>", 1: "a"}, {"<end>": 0}]),
            "not the inverse",
        ),
        (
            lambda root: dump(root / "captions.pickle", [[], [], {0: "<end>", 1: "A b"}, {}]),
            "'A b' is not one word",
        ),
        (text(b"one bird\n"), "'001.Tit/Tit_02': 1 captions with a word, must be captions_per_image = 10"),
        (text(b"a \0 bird\n" * 10), "'001.Tit/Tit_02': a caption has a NUL"),
        (text(b"a \xff bird\n" * 10), "'001.Tit/Tit_02': .*Tit_02.txt': (not UTF-8|cannot be read)"),
        (
            lambda root: (root / "text/001.Tit/Tit_02.txt").unlink(),
            "'001.Tit/Tit_02': .*Tit_02.txt': (not UTF-8|cannot be read)",
        ),
        (lambda root: (root / "CUB_200_2011/images/001.Tit/Tit_01.jpg").unlink(), "Tit_01.jpg': there is no such"),
        (lambda root: (root / "CUB_200_2011/images.txt").unlink(), "images.txt': cannot be read"),
        (
            lambda root: (root / "CUB_200_2011/images.txt").write_text("1 a.jpg\n"),
            "'002.Crow/Crow_01': it has no bound",
        ),
        (
            lambda root: (root / "CUB_200_2011/bounding_boxes.txt").write_text("1 2 3 4\n"),
            "line 1: a row must have 5 values",
        ),
        (
            lambda root: (root / "CUB_200_2011/bounding_boxes.txt").write_text("1 2 3 nan 4\n"),
            "picture 1 has the box",
        ),
    ],
)
def test_what_is_wrong_with_a_tree_is_said(birds, damage, says):
    damage(birds)
    assert re.search(says, problems(CUBDataset, birds))
    assert not (birds / "ran").exists()


def test_neither_text_nor_pickle(birds):
    (birds / "captions.pickle").unlink()
    (birds / "text").rename(birds / "elsewhere")
    assert "neither text/ nor captions.pickle" in problems(CUBDataset, birds)


IMAGE = {"id": 1, "file_name": "a.jpg"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "captions.json is no file of COCO captions"),
        ("[" * 100_000, "RecursionError"),
        ([], "TypeError"),
        ({"images": []}, "KeyError"),
        ({"images": [], "annotations": []}, "the first of which is not empty"),
        ({"images": [{"id": "1"}, IMAGE], "annotations": []}, r"images\[0\] must have an id and a file_name"),
        (
            {"images": [{"id": 1, "file_name": "../a.jpg"}], "annotations": []},
            r"'\.\./a\.jpg': the name leads outside",
        ),
        ({"images": [{"id": 1, "file_name": "/a.jpg"}], "annotations": []}, "'/a.jpg': the name leads outside"),
        ({"images": [{"id": 1, "file_name": ["a"]}], "annotations": []}, r"a file name, got \['a'\]"),
        (
            {"images": [{"id": 1, "file_name": "\ud800.jpg"}], "annotations": []},
            "ud800.jpg': there is no such picture",
        ),
        ({"images": [IMAGE, IMAGE], "annotations": []}, "'a.jpg': it or its id 1 is listed twice"),
        ({"images": [IMAGE, {"id": 2, "file_name": "a.png"}], "annotations": []}, "differ in their suffix only"),
        (
            {"images": [IMAGE], "annotations": [{"image_id": 2, "caption": "a"}]},
            r"annotations\[0\] must have a caption",
        ),
        (
            {"images": [IMAGE], "annotations": [{"image_id": 1, "caption": 3}]},
            r"annotations\[0\] must have a caption",
        ),
        ({"images": [IMAGE], "annotations": [{"image_id": 1, "caption": "a \0"}]}, "'a.jpg': a caption has a NUL"),
        ({"images": [IMAGE], "annotations": [{"image_id": 1, "caption": "!"}]}, "'a.jpg': 0 captions with a word"),
    ],
)
def test_annotations_that_cannot_be_read(tmp_path, content, says):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.jpg")
    path = tmp_path / "captions.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert re.search(says, problems(COCODataset, tmp_path, path, captions_per_image=1))


def test_torn_oversized_and_thin_pictures_are_named(birds):
    dataset = CUBDataset(birds, image_size=16)
    paths = [birds / "CUB_200_2011/images" / f"{name}.jpg" for name in BIRDS["train"]]
    data = paths[0].read_bytes()
    paths[0].write_bytes(data[: len(data) // 2])
    Image.new("1", (100_000, 1000)).save(paths[1], format="PNG")
    Image.new("RGB", (2, 2)).save(paths[2], format="PNG")
    for index, says in enumerate(
        ("truncated", "100000|DecompressionBomb", r"its box .* lies outside of its 2 x 2")
    ):
        with pytest.raises(DatasetError, match=rf"{BIRDS['train'][index]}(.|\n)*({says})"):
            dataset.image(index)
    # Short side to 76 would make this one 7.6 million pixels long.
    Image.new("1", (1, 100_000)).save(birds / "thin.png")
    with pytest.raises(ValueError, match="76 x 7600000 pixels"):
        read_short_side(birds / "thin.png", 76)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"split": "val"}, ValueError),
        ({"captions_per_image": 0}, ValueError),
        ({"image_size": 8}, ValueError),
        ({"seed": -1}, ValueError),
        ({"root": "nowhere"}, NotADirectoryError),
    ],
)
def test_wrong_arguments(birds, coco, options, error):
    for opened, root in ((CUBDataset, birds), (COCODataset.from_folder, coco)):
        with pytest.raises(error):
            opened(**{"root": root, "image_size": 16, **options})


def test_caption_pickles_agree_with_their_text(birds):
    read = read_caption_pickle(birds / "captions.pickle")
    assert read.words("test", 1, 10) == [words(caption) for caption in captions_of(BIRDS["test"][1], 10)]


def checked(capsys, *arguments):
    status = validate([str(argument) for argument in arguments])
    return status, [line for line in capsys.readouterr().out.splitlines() if ": note: " not in line]


def test_validate_finds_nothing_wrong(birds, coco, capsys):
    count = len(CUBDataset(birds, image_size=16).vocabulary)
    lines = [f"train: 3 pictures, 30 captions, {count} words", f"test: 2 pictures, 20 captions, {count} words"]
    assert checked(capsys, f"cub:{birds}") == (0, [*lines, "no problems"])
    assert checked(capsys, f"coco:{coco}")[0] == 0
    for split in ("train", "test"):
        (coco / split / "filenames.pickle").unlink()
    assert checked(capsys, f"coco:{coco}")[0] == 0


def test_validate_names_what_is_wrong(birds, capsys):
    torn = birds / "CUB_200_2011/images/003.Wren/Wren_01.jpg"
    torn.write_bytes(torn.read_bytes()[:900])
    (birds / "CUB_200_2011/images/001.Tit/Tit_02.jpg").unlink()
    status, lines = checked(capsys, f"cub:{birds}")
    assert status == 1
    assert sum(line.startswith("train: '001.Tit/Tit_02.jpg': there is no such") for line in lines) == 1
    assert sum(line.startswith("test: '003.Wren/Wren_01': ") for line in lines) == 1
    assert lines[-1] == "2 problems"
    assert checked(capsys, f"cub:{birds}", "--no-decode")[1][-1] == "1 problem"
    assert checked(capsys, f"cub:{birds}?captions_per_image=13")[0] == 1


def test_validate_compares_the_text_encoder(birds, capsys, tmp_path):
    count = len(CUBDataset(birds, image_size=16).vocabulary)
    path = tmp_path / "text_encoder.pth"
    for rows, status in ((count, 0), (count + 1, 1)):
        torch.save({"module.encoder.weight": torch.zeros(rows, 3)}, path)
        assert checked(capsys, f"cub:{birds}", "--text-encoder", path)[0] == status
    says = checked(capsys, f"cub:{birds}", "--text-encoder", path)[1][-2]
    assert f"{path} knows {count + 1} words, the vocabulary has {count}" in says
    (birds / "captions.pickle").unlink()
    torch.save({"encoder.weight": torch.zeros(count, 3)}, path)
    status, lines = checked(capsys, f"cub:{birds}", "--text-encoder", path)
    assert (status, lines[-2][:24]) == (0, "note: no caption pickle;")
    for content in (b"", b"cposix\nsystem\n.", pickle.dumps(3, protocol=2)):
        path.write_bytes(content)
        status, lines = checked(capsys, f"cub:{birds}", "--text-encoder", path)
        assert status == 1
        assert f"{path} is no published text encoder" in "".join(lines)


def test_validate_reads_a_folder_of_ones_own(tmp_path, capsys):
    for n in range(4):
        picture(tmp_path / f"{n}.png", seed=n)
        (tmp_path / f"{n}.txt").write_text("a bird\na crow\n")
    assert checked(capsys, tmp_path) == (
        0,
        ["train: 3 pictures, 6 captions, 4 words", "test: 1 pictures, 2 captions, 4 words", "no problems"],
    )
    (tmp_path / "2.txt").unlink()
    status, lines = checked(capsys, tmp_path)
    assert status == 1
    assert lines[-1] == "1 problem"  # once, though it is one of both splits


@pytest.mark.parametrize(
    "arguments",
    [[], ["nowhere"], ["cub:nowhere"], ["cub:.?captions_per_image=0"], [".?words=3"], ["coco:.?max_words="]],
)
def test_validate_refuses_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        validate(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err


def test_validate_runs_as_a_module(coco):
    (coco / "val2014/COCO_val2014_000000000042.jpg").write_bytes(b"")
    command = [sys.executable, "-W", "error", "-m", "t2ilayers.data.validate", f"coco:{coco}"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (1, "")
    assert "test: 'COCO_val2014_000000000042': " in result.stdout

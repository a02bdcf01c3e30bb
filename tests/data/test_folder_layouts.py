"""Every layout of a folder gives the same pictures, captions and splits, and nothing in it is left out unsaid."""

import json
import re
import warnings

import pytest
from PIL import Image

from t2ilayers.data import CaptionFolder, DatasetError, open_dataset
from t2ilayers.vocabulary import Vocabulary


def picture(path, colour=(200, 30, 30), size=(16, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def write_list(path, rows, suffix):
    """Rows of (file, text) as a metadata list of one of the three formats."""
    path.parent.mkdir(parents=True, exist_ok=True)
    target = path.with_name(f"metadata{suffix}")
    if suffix == ".jsonl":
        target.write_text("".join(json.dumps({"file_name": f, "text": t}) + "\n" for f, t in rows))
    elif suffix == ".csv":
        target.write_text("file_name,text\n" + "".join(f'{f},"{t}"\n' for f, t in rows))
    else:
        arrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        columns = {"file_name": [f for f, _ in rows], "text": [t for _, t in rows]}
        parquet.write_table(arrow.table(columns), target)


def splits(root, **options):
    return [
        {dataset.key(n): dataset.captions(n) for n in range(len(dataset))}
        for dataset in (CaptionFolder(root, split=split, image_size=16, **options) for split in ("train", "test"))
    ]


def problems(root, **options):
    with pytest.raises(DatasetError) as caught:
        CaptionFolder(root, **{"split": None, "image_size": 16, **options})
    assert len(str(caught.value)) < 2100
    return caught.value.problems


FILES = [f"{split}/{part}{n}.png" for split in ("train", "test") for part in ("", "birds/") for n in range(2)]
EXPECTED = [{file: (f"a {file[-5]}",) for file in FILES if file.startswith(split)} for split in ("train", "test")]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".txt"])
@pytest.mark.parametrize("place", ["root", "split", "folder"])
def test_imagefolder_in_all_its_layouts(tmp_path, suffix, place):
    lists = {}
    for file in FILES:
        picture(tmp_path / file)
        folder = {"root": "", "split": file.split("/")[0], "folder": file.rpartition("/")[0]}[place]
        lists.setdefault(folder, []).append((file[len(folder) :].lstrip("/"), f"a {file[-5]}"))
        if suffix == ".txt":
            (tmp_path / file).with_suffix(".txt").write_text(f"a {file[-5]}")
    if suffix != ".txt":
        for folder, rows in lists.items():
            write_list(tmp_path / folder / "x", rows, suffix)
    assert splits(tmp_path) == EXPECTED


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "validation"),
        ("training", "testing"),
        ("data/Train2014", "data/val2014"),
        ("train-images", "dev"),
        ("a/train/b", "a/eval_set/b"),
        ("train", "evaluation"),
    ],
)
def test_folders_name_splits(tmp_path, train, test):
    for folder in (train, test):
        picture(tmp_path / folder / "1.png")
        (tmp_path / folder / "1.txt").write_text("a bird")
    assert [list(part) for part in splits(tmp_path)] == [[f"{train}/1.png"], [f"{test}/1.png"]]


def test_files_name_splits_where_all_do_and_both_occur(tmp_path):
    for name in ("train_1", "val_1"):
        picture(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text("a bird")
    assert [list(part) for part in splits(tmp_path)] == [["train_1.png"], ["val_1.png"]]
    # A train is a train where not every name is about splits.
    for n in range(8):
        picture(tmp_path / f"bus_{n}.png")
        (tmp_path / f"bus_{n}.txt").write_text("a bus")
    train, test = splits(tmp_path, test_fraction=0.3)
    assert len(train) + len(test) == 10
    assert len(test) > 1


def test_the_rows_own_split_goes_before_the_folders(tmp_path):
    rows = []
    for n, split in enumerate(["train", "val", "TEST", "train"]):
        picture(tmp_path / f"train/{n}.png")
        rows.append({"file": f"{n}.png", "captions": ["a bird"], "split": split})
    (tmp_path / "train/captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [list(part) for part in splits(tmp_path)] == [
        ["train/0.png", "train/3.png"],
        ["train/1.png", "train/2.png"],
    ]


def test_a_picture_outside_of_the_folders_of_splits_is_a_problem_and_test_pictures_never_train(tmp_path):
    for name in ("test/1", "test/2", "holdout/3", "train/4"):
        picture(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text("a bird")
    assert problems(tmp_path) == ("'holdout/3.png': no split, while other pictures have one",)
    for name in ("holdout/3", "train/4"):
        for suffix in (".png", ".txt"):
            (tmp_path / (name + suffix)).unlink()
    assert problems(tmp_path, split="train") == ("no picture in split 'train' of 2",)
    # A folder for training alone names nothing to be held out.
    (tmp_path / "test").rename(tmp_path / "train2")
    assert [len(part) for part in splits(tmp_path)] == [1, 1]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_several_rows_and_missing_texts(tmp_path, suffix):
    for n in range(2):
        picture(tmp_path / f"{n}.png")
    text = None if suffix == ".parquet" else ""
    write_list(tmp_path / "x", [("0.png", "a bird"), ("1.png", text), ("0.png", "a crow")], suffix)
    with pytest.warns(UserWarning, match=r"left out 1 pictures without a caption: '1\.png'$"):
        dataset = CaptionFolder(tmp_path, split=None, image_size=16)
    assert dataset.captions(0) == ("a bird", "a crow")
    assert len(dataset) == 1


def test_a_picture_in_two_lists_is_a_problem(tmp_path):
    picture(tmp_path / "a/1.png")
    write_list(tmp_path / "x", [("a/1.png", "a bird")], ".csv")
    write_list(tmp_path / "a/x", [("1.png", "a crow")], ".jsonl")
    assert problems(tmp_path) == ("'a/1.png': listed twice, again in a/metadata.jsonl line 1",)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet", b"PAR1" + bytes(100) + b"PAR1"])
def test_damaged_parquet_is_named(tmp_path, content):
    pytest.importorskip("pyarrow")
    picture(tmp_path / "1.png")
    (tmp_path / "metadata.parquet").write_bytes(content)
    assert problems(tmp_path)[0].startswith("metadata.parquet: not Parquet (")


def test_parquet_lacking_a_column_is_named(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    picture(tmp_path / "1.png")
    parquet.write_table(
        arrow.table({"file_name": ["1.png"], "caption": ["a bird"]}), tmp_path / "metadata.parquet"
    )
    said = "metadata.parquet: the columns must include file_name and text, got ['file_name', 'caption']"
    assert problems(tmp_path)[0] == said


# What lies in a folder of .txt captions beside a.png and a.txt, and the problem that says so.
BESIDE = [
    ("b.txt", "'b.txt': captions without a picture of the same name beside them"),
    ("b.png", "'b.png': no b.txt with its captions beside it"),
    ("c/b.heic", "'c/b.heic': no b.txt with its captions beside it"),
    ("b.mp4 b.txt", "'b.txt': captions without a picture of the same name beside them"),
    ("b.svg b.txt", "'b.svg': its picture cannot be read (UnidentifiedImageError"),
    ("b.HEIC b.txt", "'b.HEIC': its picture cannot be read (UnidentifiedImageError"),
]


@pytest.mark.parametrize(("names", "said"), BESIDE)
def test_half_a_pair_is_a_problem_by_name(tmp_path, names, said):
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a bird")
    for name in names.split():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a crow")
    assert [line[: len(said)] for line in problems(tmp_path)] == [said]


def test_what_is_left_out_is_said_by_kind_with_names_and_counts(tmp_path):
    for n in range(9):
        picture(tmp_path / f"{n}.png")
    write_list(tmp_path / "x", [(f"{n}.png", "a bird") for n in range(2)], ".csv")
    write_list(tmp_path / "x", [("0.png", "a bird")], ".parquet")
    for name in ("README.md", "0.txt", ".DS_Store", ".git/config", "videos/1.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("?")
    with pytest.warns(UserWarning, match="left out") as caught:
        assert len(CaptionFolder(tmp_path, split=None, image_size=16)) == 2
    assert sorted(str(warning.message).removeprefix(f"{tmp_path}: left out ") for warning in caught) == [
        "1 lists beside another one: 'metadata.parquet'",
        "3 files that are neither pictures nor captions of these: '0.txt', 'README.md', 'videos/1.mp4'",
        "7 pictures that no list names: '2.png', '3.png', '4.png', '5.png', '6.png', ...",
    ]


def test_names_with_dots_and_capitals(tmp_path):
    for name in ("IMG_2019.05.01.jpg", "b.PNG", "c.Jpeg"):
        Image.new("RGB", (16, 16)).save(tmp_path / name, format="PNG")
    for name in ("IMG_2019.05.01.txt", "b.TXT", "c.txt"):
        (tmp_path / name).write_text("a bird")
    assert len(CaptionFolder(tmp_path, split=None, image_size=16)) == 3


def test_one_caption_of_several_lines(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a bird\nthat sits\n\non a branch\n", encoding="utf-8-sig")
    assert CaptionFolder(tmp_path, split=None, image_size=16).captions(0) == ("a bird", "that sits", "on a branch")
    whole = CaptionFolder(tmp_path, split=None, image_size=16, one_caption=True)
    assert whole.captions(0) == ("a bird that sits on a branch",)
    picture(tmp_path / "b.png")
    (tmp_path / "b.txt").write_text("a\ncrow")
    rows = [
        open_dataset(f"{tmp_path}?one_caption=true", split, image_size=16).captions(0)
        for split in ("train", "test")
    ]
    assert sorted(rows) == [("a bird that sits on a branch",), ("a crow",)]


def test_words_of_any_script_and_characters(tmp_path):
    texts = ["赤い鳥 1羽", "青い花 2本"]
    for n, text in enumerate(texts):
        picture(tmp_path / f"{n}.png")
        (tmp_path / f"{n}.txt").write_text(text, encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        words = CaptionFolder(tmp_path, split=None, image_size=16)
        characters = open_dataset(f"{tmp_path}?tokenizer=characters&max_words=40", image_size=16)
    assert words.vocabulary.words == ("<end>", *sorted(["赤い鳥", "1羽", "青い花", "2本"]))
    assert set(characters.vocabulary) == {"<end>", *"赤い鳥1羽青花2本"}
    assert characters[0]["tokens"].shape == (40,)
    assert characters[0]["length"] == 5
    own = CaptionFolder(tmp_path, split=None, image_size=16, tokenizer=lambda caption: re.findall("..?", caption))
    assert "赤い" in own.vocabulary


def test_a_vocabulary_of_the_family_counts_what_it_loses(tmp_path):
    for n, text in enumerate(["a café", "a bird", "un oiseau d'été"]):
        picture(tmp_path / f"{n}.png")
        (tmp_path / f"{n}.txt").write_text(text, encoding="utf-8")
    published = Vocabulary(["<end>", "a", "bird", "caf", "d", "oiseau", "t", "un"], tokenizer="ascii")
    with pytest.warns(UserWarning, match=r"the letters outside ASCII, .* of 2 captions: 'café', 'été'$"):
        dataset = CaptionFolder(tmp_path, split=None, image_size=16, vocabulary=published)
    assert dataset.vocabulary is published
    assert published.decode(dataset[0]["tokens"].tolist()) == "a caf"
    short = Vocabulary(["<end>", "a"], tokenizer="ascii")
    assert problems(tmp_path, vocabulary=short)[0] == "'0.png': words that the vocabulary lacks: 'caf'"
    # A vocabulary that takes the place of the dataset's own is no less outspoken.
    dataset = CaptionFolder(tmp_path, split=None, image_size=16)
    dataset.vocabulary = published
    with pytest.warns(UserWarning, match="'café' and others lose letters"):
        dataset[0]
    dataset[2]

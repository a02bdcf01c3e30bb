"""Links in a data set: those that stores of files make are followed, and none that makes captions of a secret."""

import json
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from t2ilayers.data import CaptionFolder, CUBDataset, DatasetError

SECRET = "root:x:0:0:root"
SHA = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


@pytest.fixture
def store(tmp_path):
    """A folder outside of the data set's, with pictures and captions under several names."""
    store = tmp_path
    for name in (
        f"blobs/{SHA}",
        "blobs/60b7",
        "files/md5/9f/86d081884c7d659a2feaa0c55ad015",
        "all/7.png",
        f"annex/SHA256E-s9--{SHA}.png",
    ):
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), "red").save(store / name, format="PNG")
    texts = {
        "all/7.txt": "a bird",
        f"all/{SHA[::-1]}": "a bird",
        f"blobs/{SHA[::-1]}": "a bird",
        "blobs/9f86": "a bird",
        f"all/SHA256E-s9--{SHA}.txt": "a bird",
        "all/8.txt": SECRET,
        "all/passwd": SECRET,
    }
    for name, text in texts.items():
        (store / name).write_text(text)
    row = {"file_name": "0.png", "text": "a bird"}
    for name in (SHA.replace("9", "8"), "metadata.jsonl", "notes.jsonl"):
        (store / "all" / name).write_text(json.dumps(row))
    return store


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "snapshots" / "abc"
    root.mkdir(parents=True)
    return root


def caption(root):
    return CaptionFolder(root, split=None, image_size=16).captions(0)


@pytest.mark.parametrize(
    ("picture", "text"),
    [
        (f"blobs/{SHA}", f"blobs/{SHA[::-1]}"),  # huggingface_hub
        ("blobs/60b7", "blobs/9f86"),
        ("files/md5/9f/86d081884c7d659a2feaa0c55ad015", f"all/{SHA[::-1]}"),  # DVC
        (f"annex/SHA256E-s9--{SHA}.png", f"all/SHA256E-s9--{SHA}.txt"),  # git-annex
        ("all/7.png", "all/7.txt"),  # a subset with other names
        ("all/7.png", None),  # captions of one's own to pictures elsewhere
    ],
)
@pytest.mark.parametrize("relative", [True, False])
def test_links_of_stores_and_subsets_are_followed(root, store, picture, text, relative):
    def link(path, name):
        path.symlink_to(os.path.relpath(store / name, root) if relative else store / name)

    link(root / "0.png", picture)
    if text:
        link(root / "0.txt", text)
    else:
        (root / "0.txt").write_text("a bird")
    assert caption(root) == ("a bird",)


@pytest.mark.parametrize("target", [f"all/{SHA.replace('9', '8')}", "all/metadata.jsonl"])
def test_lists_may_be_links(root, store, target):
    (root / "0.png").symlink_to(store / "all/7.png")
    (root / "metadata.jsonl").symlink_to(store / target)
    assert caption(root) == ("a bird",)


def test_links_within_the_folder_may_lead_anywhere_in_it(root):
    Image.new("RGB", (16, 16)).save(root / ".data", format="PNG")
    (root / ".words").write_text("a bird")
    (root / "a.png").symlink_to(".data")
    (root / "a.txt").symlink_to(".words")
    assert caption(root) == ("a bird",)


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("0.txt", "all/passwd"),
        ("0.txt", "all/8.txt"),
        ("0.txt", "/etc/passwd"),
        ("0.png", "all/passwd"),
        ("metadata.jsonl", "all/notes.jsonl"),
        ("captions.jsonl", "all/passwd"),
        ("metadata.csv", "all/passwd"),
    ],
)
def test_a_link_to_a_file_that_is_none_of_the_data_is_refused(root, store, link, target):
    Image.new("RGB", (16, 16)).save(root / "0.png")
    (root / "0.txt").write_text("a bird")
    (root / link).unlink(missing_ok=True)
    (root / link).symlink_to(store / target)
    with pytest.raises(DatasetError) as caught:
        caption(root)
    assert f"{link!r}: it leads out of the folder, to " in str(caught.value)
    assert "x:0:0" not in str(caught.value)


def test_linked_folders_are_walked_once_and_loops_are_left_out(root, store):
    pair = store / "pair"
    pair.mkdir()
    (store / "all/7.png").rename(pair / "7.png")
    (pair / "7.txt").write_text("a bird")
    (root / ".hidden").mkdir()
    Image.new("RGB", (16, 16)).save(root / ".hidden/9.png")
    (root / ".hidden/9.txt").write_text("a tit")
    for name, target in (("a", pair), ("b", pair), ("c", root / "real"), ("d", root / ".hidden")):
        (root / name).symlink_to(target)
    (root / "real").mkdir()
    for n in range(3):
        Image.new("RGB", (16, 16)).save(root / f"real/{n}.png")
        (root / f"real/{n}.txt").write_text("a crow")
    (root / "real/up").symlink_to(root)
    (root / "real/away").symlink_to("/")
    with pytest.warns(UserWarning, match="left out") as caught:
        dataset = CaptionFolder(root, split=None, image_size=16)
    said = [str(warning.message) for warning in caught]
    assert [line.partition("this one: ")[2] for line in said] == ["'b', 'c', 'real/away', 'real/up'"]
    keys = [dataset.key(n) for n in range(len(dataset))]
    assert keys == ["a/7.png", "d/9.png", "real/0.png", "real/1.png", "real/2.png"]


@pytest.mark.parametrize("name", ["text/a/0.txt", "train/filenames.pickle", "CUB_200_2011/images.txt"])
def test_published_trees_have_the_same_rule(tmp_path, store, name):
    root = tmp_path / "birds"
    noise = np.zeros((20, 20, 3), np.uint8)
    for folder in ("text/a", "train", "test", "CUB_200_2011/images/a"):
        (root / folder).mkdir(parents=True)
    Image.fromarray(noise).save(root / "CUB_200_2011/images/a/0.jpg")
    (root / "text/a/0.txt").write_text("a bird\n" * 10)
    (root / "CUB_200_2011/images.txt").write_text("1 a/0.jpg\n")
    (root / "CUB_200_2011/bounding_boxes.txt").write_text("1 1 1 9 9\n")
    (root / "train/filenames.pickle").write_bytes(pickle.dumps(["a/0"], protocol=2))
    (root / "test/filenames.pickle").write_bytes(pickle.dumps(["a/0"], protocol=2))
    kept = store / "all" / name.rpartition("/")[2]
    (root / name).rename(kept)
    (root / name).symlink_to(kept)  # its own name: kept elsewhere
    assert CUBDataset(root, image_size=16).captions(0) == ("a bird",) * 10
    (root / name).unlink()
    (root / name).symlink_to(store / "all/passwd")
    with pytest.raises(DatasetError, match="it leads out of the folder, to"):
        CUBDataset(root, image_size=16)

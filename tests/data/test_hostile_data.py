"""Files that lie: each costs a sentence with the file's name, little memory and little time."""

import io
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2ilayers.data import CaptionFolder, CaptionShards, COCODataset, CUBDataset, DatasetError
from t2ilayers.data.readers import pickles

WITHIN = 400 * 2**20  # bytes that a subprocess may take more than at its start


def png(colour="red"):
    file = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(file, "PNG")
    return file.getvalue()


def said(opened, *arguments, **options):
    """The message, which is short, and has all problems."""
    with pytest.raises(DatasetError) as caught:
        opened(*arguments, image_size=16, **options)
    assert len(str(caught.value)) < 2200
    return str(caught.value)


def write_shard(path, *members):
    with tarfile.open(path, "w") as shard:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            shard.addfile(info, io.BytesIO(content))
    return path


# --- pickles: bounded in depth and size, also in what an error quotes


def nested(code, depth):
    return {"tuple": b"N" + b"\x85" * depth, "list": b"]" * depth + b"a" * (depth - 1)}[code]


def doubling(depth):
    """Lists of two references to the list before: little to hold, and endless to print."""
    return b"]q\x00" + b"".join(
        b"]" + b"(h" + bytes([n]) + b"h" + bytes([n]) + b"eq" + bytes([n + 1]) for n in range(depth)
    )


DEEP = 10**5  # Python's own reader ends the process from some 60,000 on
HOSTILE = {
    "a tuple of any depth as a key": b"}" + nested("tuple", DEEP) + b"Ns.",
    "a tuple of any depth in a set": b"\x8f(" + nested("tuple", DEEP) + b"\x90.",
    "a tuple of any depth in a frozenset": b"(" + nested("tuple", DEEP) + b"\x91.",
    "set of a deep tuple": b"c__builtin__\nset\n(]" + nested("tuple", DEEP) + b"atR.",
    "lists of any depth": nested("list", DEEP) + b".",
    "tuples of any depth": nested("tuple", DEEP) + b".",
    "lists that double": doubling(200) + b".",
    "dictionaries that hold themselves": b"}q\x00X\x01\x00\x00\x00ah\x00s.",
    "a number of any size": b"\x8b\x00\x00\x80\x00" + bytes(2**23) + b".",
    "a number of many digits": b"I" + b"9" * 10**6 + b"\n.",
    "a string said to be huge": b"X\xff\xff\xff\x7f.",
    "a string said to be huge, of 8 bytes": b"\x8d" + b"\xff" * 7 + b"\x7f.",
    "a number of no slot": b"j\xff\xff\xff\x7f.",
    "a slot of a huge number": b"Nr\xff\xff\xff\x7f.",
    "groups without end": b"(" * 10**6 + b".",
    "the same bytes as many arrays": (
        b"B\x00\x00\x80\x00" + bytes(2**23) + b"q\x000cnumpy\ndtype\n(S'u1'\nI0\nI1\ntRq\x010"
        + b"cnumpy.core.numeric\n_frombuffer\n(h\x00h\x01(I8388608\ntS'C'\ntR" * 100 + b"."
    ),
    "the same list as many sets": (
        b"](" + b"I1\nI2\n" * 10**4 + b"eq\x00" + b"c__builtin__\nset\n(h\x00tR" * 999 + b"."
    ),
    "a name of any length": b"c" + b"a" * 10**6 + b"\nb\n.",
    "text": b"hello " * 10**6,
}  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("name", ["train/filenames.pickle", "train/class_info.pickle", "captions.pickle"])
def test_hostile_pickles_cost_a_sentence(tmp_path, content, name):
    for folder in ("train", "test", "images"):
        (tmp_path / folder).mkdir()
    (tmp_path / "train/filenames.pickle").write_bytes(pickle.dumps(["a"], protocol=2))
    (tmp_path / name).write_bytes(content)
    assert str(tmp_path / name) in said(CUBDataset, tmp_path)


def test_the_reader_takes_little_memory_and_no_stack(tmp_path):
    """Each file in a process of its own would take long; one process reads them all within a bound of memory."""
    for n, content in enumerate(HOSTILE.values()):
        (tmp_path / f"{n}.pickle").write_bytes(content)
    code = (
        "import resource, sys, threading; from pathlib import Path; from t2ilayers.data.readers import pickles\n"
        "now = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (now + {WITHIN}, -1))\n"
        "for path in Path(sys.argv[1]).iterdir():\n"
        "    try: pickles.load(path)\n"
        "    except ValueError as error: assert len(str(error)) < 700, path\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-500:]


def test_the_number_of_objects_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "_MOST_OBJECTS", 1000)
    for code in (b"]", b"}", b")", b"\x8f", b"U\x01a", b"G" + bytes(8)):
        (tmp_path / "a.pickle").write_bytes(code * 1001 + b".")
        with pytest.raises(ValueError, match=r"a\.pickle .* it has more than 1000 objects"):
            pickles.load(tmp_path / "a.pickle")


def test_names_of_any_length_are_cut_in_messages(tmp_path):
    (tmp_path / "train").mkdir()
    for names in (["x" * 10**7], [f"{'y' * 10**6}{n}" for n in range(30)], ["z" * 10**6] * 2, {"w" * 10**7: 1}):
        (tmp_path / "train/filenames.pickle").write_bytes(pickle.dumps(names, protocol=2))
        said(CUBDataset, tmp_path)


# --- what is no file: never waited for


@pytest.mark.parametrize("name", ["a.png", "a.txt", "captions.jsonl", "metadata.csv", "metadata.parquet"])
def test_pipes_in_a_folder_are_not_waited_for(tmp_path, name):
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "a.txt").write_text("a bird")
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    assert name in said(CaptionFolder, tmp_path, split=None)


IN_A_TREE = (
    *("train/filenames.pickle", "train/class_info.pickle", "captions.pickle", "text/a.txt"),
    *("CUB_200_2011/images.txt", "CUB_200_2011/bounding_boxes.txt"),
)


@pytest.mark.parametrize("name", IN_A_TREE)
def test_pipes_in_a_published_tree_are_not_waited_for(tmp_path, name):
    for folder in ("train", "text", "CUB_200_2011/images"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "train/filenames.pickle").write_bytes(pickle.dumps(["a"], protocol=2))
    (tmp_path / "text/a.txt").write_text("a bird\n" * 10)
    (tmp_path / "CUB_200_2011/images/a.jpg").write_bytes(png())
    (tmp_path / "CUB_200_2011/images.txt").write_text("1 a.jpg")
    (tmp_path / "CUB_200_2011/bounding_boxes.txt").write_text("1 1 1 9 9")
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    assert "got a pipe" in said(CUBDataset, tmp_path)


def test_pipes_as_annotations_shards_and_indices(tmp_path):
    os.mkfifo(tmp_path / "captions.json")
    assert "got a pipe" in said(COCODataset, tmp_path, tmp_path / "captions.json")
    os.mkfifo(tmp_path / "train.tar")
    assert "got a pipe" in said(CaptionShards, tmp_path / "train.tar")
    shard = write_shard(tmp_path / "train-1.tar", ("a.png", png()), ("a.txt", b"a bird"))
    os.mkfifo(tmp_path / "train-1.tar.index.npz")
    assert CaptionShards(shard, image_size=16).captions(0) == ("a bird",)


def test_folders_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "a.txt").write_text("a bird")
    (tmp_path / "locked").mkdir()
    real = os.scandir

    def scandir(path):  # root, as which tests may run, can read all
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert "'locked': the folder cannot be read (Permission denied)" in said(CaptionFolder, tmp_path, split=None)


# --- tar files whose headers lie


def header(name=b"a.png", size=b"%011o\0" % 0, kind=b"0"):
    block = bytearray(tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT)[:512])
    block[:100] = name.ljust(100, b"\0")
    block[124:136] = size.ljust(12, b"\0")[:12]
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def binary(size):
    return b"\x80" + size.to_bytes(11, "big")


LYING = {
    "a long name of 8 GB": header(size=binary(2**33), kind=b"L"),
    "a long link of 8 GB": header(size=binary(2**33), kind=b"K"),
    "an extended header of 8 GB": header(size=binary(2**33), kind=b"x"),
    "a global header of 8 GB": header(size=binary(2**33), kind=b"g"),
    "5,000 long names": (header(size=b"%011o\0" % 2, kind=b"L") + b"a".ljust(512, b"\0")) * 5000,
    "5,000 extended headers": (header(size=b"%011o\0" % 10, kind=b"x") + b"10 path=a\n".ljust(512, b"\0")) * 5000,
    "a member of 8 EB": header(size=binary(2**63)),
    "a member of a negative size": header(size=b"\xff" * 12),
    "a size of digits without end": (
        header(size=b"%011o\0" % 9000, kind=b"x")
        + (b"9000 size=" + b"9" * 8989 + b"\n").ljust(9216, b"\0")
        + header()
    ),
    "a sparse member": header(kind=b"S"),
    "gzip": b"\x1f\x8b" + bytes(2000),
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(2000),
}


@pytest.mark.parametrize("content", LYING.values(), ids=LYING)
def test_headers_that_lie(tmp_path, content):
    (tmp_path / "train.tar").write_bytes(content + bytes(1024))
    limit = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + WITHIN, limit[1]))
    try:
        message = said(CaptionShards, tmp_path / "train.tar")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)
    assert f"{tmp_path / 'train.tar'}: " in message


def test_one_long_name_or_class_does_not_make_all_rows_long(tmp_path):
    long = "a/" * 600 + "a"
    shard = write_shard(tmp_path / "train.tar", (f"{long}.png", png()), (f"{long}.txt", b"a bird"))
    assert "a name must have at most 1000 bytes" in said(CaptionShards, shard)
    shard = write_shard(tmp_path / "train.tar", ("a.png", png()), ("a.txt", b"a"), ("a.cls", b"b" * 2000))
    assert "'a.cls': the class must be short" in said(CaptionShards, shard)
    (tmp_path / "x").mkdir()
    (tmp_path / "x/a.png").write_bytes(png())
    (tmp_path / "x/captions.jsonl").write_text(
        json.dumps({"file": "a.png", "captions": ["a"], "class_id": "b" * 2000})
    )
    assert "'a.png': the class must be a string or number, and short" in said(
        CaptionFolder, tmp_path / "x", split=None
    )


FORGED = {
    "words of another kind": {"words": np.array(["a"])},
    "places outside": {"places": np.array([[2**62, 3, 2**62, 3]])},
    "places that overflow": {"places": np.array([[2**63 - 1, 2**28, 2**63 - 1, 2**20]])},
    "negative places": {"places": np.array([[-512, 3, 1536, 6]])},
    "places in the first header": {"places": np.array([[3, 3, 3, 3]])},
    "fewer places": {"places": np.empty((0, 4), np.int64)},
    "flat places": {"places": np.arange(4)},
    "floats": {"places": np.zeros((1, 4))},
    "no names": {"names": np.array([], dtype=np.bytes_)},
    "more labels": {"labels": np.array([b"a", b"b"])},
    "check sums of another kind": {"heads": np.zeros((1, 2))},
    "words that are no text": {"words": np.frombuffer(b"\xff\xfe", np.uint8)},
    "notes that are no JSON": {"left": np.frombuffer(b"[[1]]", np.uint8)},
    "notes of another kind": {"left": np.frombuffer(b'[["{x}", "a", []]]', np.uint8)},
    "objects": {"words": np.array([None], object)},
}


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED)
def test_a_forged_index_is_made_anew(tmp_path, change):
    shard = write_shard(tmp_path / "train.tar", ("a.png", png()), ("a.txt", b"a bird"))
    whole = CaptionShards(shard, image_size=16)
    path = tmp_path / "train.tar.index.npz"
    with np.load(path) as kept:
        arrays = dict(kept)
    np.savez(path, **arrays | change)
    again = CaptionShards(shard, image_size=16)
    assert again.vocabulary == whole.vocabulary
    assert again.captions(0) == ("a bird",)
    with np.load(path) as kept:  # and kept in its place
        assert kept["places"].tolist() == arrays["places"].tolist()


def test_an_index_that_unpacks_to_more_is_made_anew(tmp_path):
    shard = write_shard(tmp_path / "train.tar", ("a.png", png()), ("a.txt", b"a bird"))
    CaptionShards(shard, image_size=16)
    path = tmp_path / "train.tar.index.npz"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["words.npy"] = members["words.npy"][:128] + bytes(2**24)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert CaptionShards(shard, image_size=16).vocabulary.words == ("<end>", "a", "bird")


@pytest.mark.parametrize(
    "pattern", ["x-{0..999999999999}.tar", "{0..999}{0..999}{0..999}", "{a,b}" * 60, "{0..9}" * 4000, "{" * 10**5]
)
def test_patterns_of_any_size(pattern):
    message = said(CaptionShards, pattern)
    assert "a pattern must name at most 1000000 shards" in message or "its name does not tell the split" in message


# --- lists and captions


@pytest.mark.parametrize(
    "row",
    [
        {"file": "x" * 10**6, "captions": ["a"]},
        {"file": "a.png", "captions": "y" * 10**6 + "\0"},
        {"file": "a.png", "captions": [["z" * 10**6]]},
        {"file": "a.png", "captions": ["a"], "split": "w" * 10**6},
        {"file": "a.png", "captions": ["a"], "class_id": ["v" * 10**6]},
        {"file": ["u" * 10**6], "captions": ["a"]},
        {"file": "a.png", "t" * 10**6: 1},
        {"file": "../" + "s" * 10**6, "captions": ["a"]},
    ],
)
def test_long_rows_make_short_messages(tmp_path, row):
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "captions.jsonl").write_text(json.dumps(row))
    said(CaptionFolder, tmp_path, split=None)
    (tmp_path / "captions.jsonl").unlink()
    fields = {"id": row["file"], "file_name": row["file"]}
    (tmp_path / "a.json").write_text(json.dumps({"images": [fields], "annotations": [row]}))
    said(COCODataset, tmp_path, tmp_path / "a.json")


def test_a_caption_file_too_large_is_not_read(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    with (tmp_path / "a.txt").open("wb") as file:
        file.truncate(2**40)  # a hole
    assert "'a.txt': cannot be read" in said(CaptionFolder, tmp_path, split=None)


def test_a_great_many_problems_make_a_short_message(tmp_path):
    for n in range(40):
        (tmp_path / f"{'long name ' * 20}{n}.png").write_bytes(b"")
    assert "(+" in said(CaptionFolder, tmp_path, split=None)


def test_a_picture_of_a_lying_size_takes_no_memory(tmp_path):
    """Heads that claim 60,000 x 60,000 pixels or more, in formats of little structure."""
    heads = {
        "a.ppm": b"P6 60000 60000 255\n",
        "b.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0),
        "c.tga": struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 60000, 60000, 24, 0),
        "d.gif": b"GIF89a" + struct.pack("<HHBBB", 60000, 60000, 0, 0, 0),
    }
    for name, head in heads.items():
        (tmp_path / name).write_bytes(head + bytes(100))
        (tmp_path / name).with_suffix(".txt").write_text("a bird")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        message = said(CaptionFolder, tmp_path, split=None)
    assert all(repr(name) in message for name in heads)

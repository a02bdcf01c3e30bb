"""Captioned pictures in tar files: the same samples as from a folder, and every problem by shard and member."""

import io
import json
import os
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from t2ilayers.data import BatchDataset, CaptionFolder, CaptionShards, DatasetError, open_dataset, validate
from t2ilayers.data.readers.shards import expand
from t2ilayers.encoders import Vocabulary

SPECIES = ("wren", "crow", "tit")


def png(seed=0, size=(24, 20)):
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, format="PNG")
    return file.getvalue()


def write_shard(path, *members, **options):
    """Members are pairs of a name and bytes, or ready-made ``TarInfo`` without content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as shard:
        for member in members:
            info, content = (member, b"") if isinstance(member, tarfile.TarInfo) else member
            if isinstance(info, str):
                info = tarfile.TarInfo(info)
                info.size = len(content)
            shard.addfile(info, io.BytesIO(content))
    return path


def captions(n):
    return f"bird number {n}\na {SPECIES[n % 3]}\n"


def bird(n, name=None):
    name = name or f"birds/{n}"
    return [
        (f"{name}.png", png(n)),
        (f"{name}.txt", captions(n).encode()),
        (f"{name}.json", json.dumps({"species": SPECIES[n % 3]}).encode()),
    ]


@pytest.fixture
def birds(tmp_path):
    """Seven birds to train with in three shards, and three to test with."""
    for n, rows in enumerate([(0, 1, 2), (3,), (4, 5, 6)]):
        write_shard(tmp_path / f"train-{n:02}.tar", *(member for row in rows for member in bird(row)))
    write_shard(tmp_path / "val-00.tar", *(member for row in (7, 8, 9) for member in bird(row)))
    return tmp_path


def problems(pattern, *arguments, **options) -> str:
    with pytest.raises(DatasetError) as caught:
        CaptionShards(pattern, *arguments, **{"image_size": 16, **options})
    return str(caught.value)


@pytest.mark.parametrize("augment", [False, True])
def test_shards_give_the_samples_of_a_folder_with_the_same_files(birds, tmp_path_factory, augment):
    folder = tmp_path_factory.mktemp("folder")
    rows = []
    for n in range(10):
        (folder / f"{n}.png").write_bytes(png(n))
        split, row = "train" if n < 7 else "test", captions(n).splitlines()
        rows.append({"file": f"{n}.png", "captions": row, "split": split, "species": SPECIES[n % 3]})
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for split in ("train", "test"):
        options = {"image_size": 16, "class_field": "species", "augment": augment}
        ours, theirs = CaptionShards(birds, split, **options), CaptionFolder(folder, split=split, **options)
        assert ours.vocabulary == theirs.vocabulary
        assert ours.class_ids.tolist() == theirs.class_ids.tolist()
        one, other = (BatchDataset(dataset, 5, seed=1)[3] for dataset in (ours, theirs))
        assert one["captions"] == other["captions"]
        torch.testing.assert_close(one["image"], other["image"], rtol=0, atol=0)
        names = [key.rpartition("/")[2] for key in one["keys"]]
        assert names == other["keys"]
    assert ours.key(1) == f"{birds}/val-00.tar/birds/8.png"


def test_batches_do_not_depend_on_the_process_that_reads_them(birds):
    data = CaptionShards(birds / "{train,val}-{00..00}.tar", image_size=16)
    batches = BatchDataset(data, 4, seed=0)
    for step, loaded in enumerate(DataLoader(batches, batch_size=None, sampler=range(5, 8), num_workers=2), 5):
        assert loaded["keys"] == batches[step]["keys"]
        assert torch.equal(loaded["image"], batches[step]["image"])


def test_braces():
    assert expand("a-{8..10}.tar") == ["a-8.tar", "a-9.tar", "a-10.tar"]
    assert expand("{b,c}/{008..010}") == ["b/008", "b/009", "b/010", "c/008", "c/009", "c/010"]
    assert expand("no{braces") == ["no{braces"]


def test_a_split_is_told_by_shard_or_folder_or_by_two_patterns(tmp_path):
    shards = [tmp_path / name for name in ("Train2014_0.tar", "test/0.tar", "restrain/0.tar")]
    for n, shard in enumerate(shards):
        write_shard(shard, *bird(n))
    named = f"{tmp_path}/{{Train2014_0,test/0}}.tar"
    assert [CaptionShards(named, split).captions(0)[1] for split in ("train", "test")] == ["a wren", "a crow"]
    two = f"{tmp_path}/{{restrain,test}}/0.tar::{shards[0]}"
    train, test = (open_dataset(f"shards:{two}", split, image_size=16) for split in ("train", "test"))
    assert [train.captions(n)[1] for n in range(2)] == ["a tit", "a crow"]
    assert test.captions(0)[1] == "a wren"
    assert f"{shards[2]}: its name does not tell the split; give TRAIN::TEST" in problems(tmp_path)
    assert f"{shards[1]}: named 2 times" in problems(f"{tmp_path}/test::{shards[1]}")
    assert "no shard in split 'train' of 1" in problems(shards[1])


def test_classes_come_from_cls_or_json_or_are_one_a_picture(tmp_path):
    members = [m for n in range(5) for m in bird(n)[:2]]
    members += [("birds/0.cls", b"7\n"), ("birds/3.cls", b"7"), ("birds/1.cls", b"12")]
    members += [("birds/4.json", b'{"class_id": null}')]
    write_shard(tmp_path / "train.tar", *members)
    write_shard(tmp_path / "test.tar", *bird(5)[:2], ("birds/5.cls", b"12"))
    ids = CaptionShards(tmp_path).class_ids.tolist()
    assert ids[0] == ids[3]
    assert len(set(ids)) == 4
    assert CaptionShards(tmp_path, "test").class_ids.tolist() == [ids[1]]


def test_names_as_tar_and_macos_write_them(tmp_path):
    long = "a" * 150 + "/ü"
    folder = tarfile.TarInfo("birds.png")
    folder.type = tarfile.DIRTYPE
    extra = [("./birds/._0.png", b"?"), ("birds/0.seg.png", b"?"), ("README", b"?"), folder]
    shard = write_shard(tmp_path / "train.tar", *bird(0, "./birds/0"), *bird(1, long), *extra)
    for _ in range(2):  # the second time by the index
        with pytest.warns(
            UserWarning, match=r"2 members that belong to no sample: 'README' .*'birds/0\.seg\.png'"
        ):
            data = CaptionShards(shard)
    assert [data.key(n) for n in range(len(data))] == [f"{shard}/birds/0.png", f"{shard}/{long}.png"]


def test_a_given_vocabulary_is_used_or_the_lacking_words_named(birds):
    words = Vocabulary.build(["a bird number 0 1 2 3 4 5 6 7 8 9 wren crow tit and more"])
    assert CaptionShards(birds, vocabulary=words).vocabulary is words
    assert f"{birds}/train-01.tar: words that the vocabulary lacks: '3', 'number'" in problems(
        birds, vocabulary=Vocabulary.build(["a bird wren"])
    )


def index_of(shard):
    return shard.with_name(shard.name + ".index.npz")


def test_an_index_is_kept_beside_its_shard_and_damaged_ones_are_made_anew(tmp_path):
    shard = write_shard(tmp_path / "train.tar", *bird(0))
    assert "wren" in CaptionShards(shard).vocabulary
    with np.load(index_of(shard)) as kept:
        changed = dict(kept)
    changed["words"] = np.frombuffer(b"bird", np.uint8)
    np.savez(index_of(shard), **changed)
    assert CaptionShards(shard).vocabulary.words == ("<end>", "bird")  # it was read
    index_of(shard).write_bytes(index_of(shard).read_bytes()[:-50])
    assert "wren" in CaptionShards(shard).vocabulary
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.tar", "train.tar.index.npz"]


@pytest.mark.parametrize("in_place", [True, False])
def test_a_shard_written_anew_with_the_same_size_and_time_is_read_anew(tmp_path, in_place):
    shard = write_shard(tmp_path / "train.tar", *bird(0, "a"), *bird(1, "b"))
    data = CaptionShards(shard)
    status = shard.stat()
    other = write_shard(tmp_path / "other", *bird(1, "b"), *bird(0, "a"))
    if in_place:
        shard.write_bytes(other.read_bytes())
        other.unlink()
    else:
        other.replace(shard)
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (shard.stat().st_size, shard.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    with pytest.raises(DatasetError, match="the shard was written anew since it was opened"):
        data[0]
    again = CaptionShards(shard)
    assert [again.captions(n)[0] for n in range(2)] == ["bird number 1", "bird number 0"]
    assert [again.key(n)[-5:] for n in range(2)] == ["b.png", "a.png"]


def test_without_a_place_for_the_index_a_shard_is_read_all_the_same(tmp_path):
    shard = write_shard(tmp_path / "train.tar", *bird(0))
    index_of(shard).mkdir()
    assert CaptionShards(shard).captions(0)[1] == "a wren"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.tar", "train.tar.index.npz"]


def test_names_with_more_dots_and_fields_of_samples(tmp_path):
    dotted = [bird(n, f"a/IMG_2019.05.0{n}")[:2] for n in range(2)]
    fields = [("x.seg.png", b"?"), ("x.meta.json", b"?"), ("x.npy", b"?"), ("about.json", b"{}")]
    shard = write_shard(tmp_path / "train.tar", *dotted[0], *bird(2, "x"), *fields, *dotted[1])
    for _ in range(2):
        with pytest.warns(
            UserWarning, match=r"left out 4 members that belong to no sample: 'x\.npy' in train\.tar, "
        ):
            data = CaptionShards(shard, image_size=16)
        names = [data.key(n).removeprefix(f"{shard}/") for n in range(len(data))]
        assert sorted(names) == ["a/IMG_2019.05.00.png", "a/IMG_2019.05.01.png", "x.png"]
        for n, name in enumerate(names):
            assert data.captions(n)[0] == f"bird number {'2' if name == 'x.png' else name[-5]}"
    shard = write_shard(tmp_path / "train-1.tar", ("b.2.png", png()), ("b.3.txt", b"a bird"))
    said = problems(shard)
    assert "'b.2.png': no .txt with its captions of the same name" in said
    assert "'b.3.txt': no picture of the same name" in said


def test_samples_without_a_caption_are_left_out_by_name(tmp_path):
    """As img2dataset writes a row without a caption."""
    empty = [(f"{n}.{ending}", content) for n in (1, 2) for ending, content in (("png", png()), ("txt", b"\n !"))]
    shard = write_shard(tmp_path / "train.tar", *bird(0), *empty, ("3.png", png()), ("3.txt", b"a crow\n...\n"))
    for _ in range(2):
        with pytest.warns(UserWarning, match="left out") as caught:
            data = CaptionShards(shard, image_size=16)
        assert [str(warning.message).partition("left out ")[2] for warning in caught] == [
            "2 pictures without a caption: '1.png' in train.tar, '2.png' in train.tar",
            "1 captions without a word, of '3.png' in train.tar",
        ]
        assert [data.captions(n) for n in range(len(data))] == [("bird number 0", "a wren"), ("a crow",)]


def test_what_else_lies_in_a_folder_of_shards(tmp_path):
    write_shard(tmp_path / "train-0.tar", *bird(0))
    (tmp_path / "train-0_stats.json").write_text("{}")
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"left out 1 files that are no shards: 'train-0_stats\.json'$"):
            CaptionShards(tmp_path, image_size=16)
    for mode, name in (("w:gz", "train-1.tar.gz"), ("w:xz", "train-2.tar.xz"), ("w:bz2", "train-3.TAR")):
        with tarfile.open(tmp_path / name, mode) as shard:
            shard.addfile(tarfile.TarInfo("a.png"))
    (tmp_path / "train-3.TAR").rename(tmp_path / "train-3.tar")
    said = problems(tmp_path)
    for name in ("train-1.tar.gz", "train-2.tar.xz", "train-3.tar"):
        assert f"{name}: torn, or no uncompressed tar (it is compressed" in said
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'} holds no .tar file" in problems(tmp_path / "empty")


def test_words_of_shards_by_other_rules(tmp_path):
    members = [("0.png", png()), ("0.txt", "赤い鳥\nein Bär".encode()), ("1.png", png()), ("1.txt", b"a\nbird")]
    shard = write_shard(tmp_path / "train.tar", *members)
    assert set(CaptionShards(shard, image_size=16).vocabulary) == {"<end>", "赤い鳥", "ein", "bär", "a", "bird"}
    characters = open_dataset(f"shards:{shard}?tokenizer=characters&max_words=40", image_size=16)
    assert set(characters.vocabulary) == {"<end>", *"赤い鳥einbärbirda"}
    own = CaptionShards(shard, image_size=16, tokenizer=str.split)
    assert "Bär" in own.vocabulary
    assert CaptionShards(shard, image_size=16, one_caption=True).captions(1) == ("a bird",)
    published = Vocabulary(["<end>", "a", "bird", "br", "ein"], tokenizer="ascii")
    with pytest.warns(UserWarning, match=r"letters outside ASCII, .* of 2 captions: 'bär', '赤い鳥'$"):
        CaptionShards(shard, image_size=16, vocabulary=published)


def link(name, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("a.png", b"?")], "'a.png': no .txt with its captions of the same name"),
        ([("a.txt", b"a bird")], "'a.txt': no picture of the same name"),
        ([("a.jpg", b"?"), ("a.png", b"?"), ("a.txt", b"a")], "'a.png': a second picture of 'a.jpg'"),
        ([("../a.png", b"?"), ("../a.txt", b"a")], "'../a.png': the name leads outside the folder"),
        ([("/a.png", b"?"), ("/a.txt", b"a")], "'/a.png': the name leads outside the folder"),
        ([link("a.png", "/etc/passwd"), ("a.txt", b"a")], "'a.png': it is no plain file but a link"),
        ([("a.png", b"?"), ("a.txt", b" \n!?\n")], "no captioned picture"),
        ([("a.png", b"?"), ("a.txt", b"a\0b")], "'a.txt': a caption has a NUL character"),
        ([("a.png", b"?"), ("a.txt", b"a \xff bird")], "'a.txt': 'utf-8' codec can't decode"),
        ([("a.png", b"?"), ("a.txt", b"a" * (2**20 + 1))], "'a.txt': 1048577 bytes are more than the 1048576"),
        ([("a.png", b"?"), ("a.txt", b"a"), ("a.json", b"[" * 100_000)], "'a.json': "),
        ([("a.png", b"?"), ("a.txt", b"a"), ("a.json", b"[1]")], "'a.json': it must hold a JSON object, got [1]"),
        (
            [("a.png", b"?"), ("a.txt", b"a"), ("a.json", b'{"class_id": {}}')],
            "'a.json': the class must be a string",
        ),
        ([("README", b"nothing here")], "no captioned picture"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_member_that_cannot_be_used_is_named_with_its_shard(birds, members, said):
    shard = write_shard(birds / "train-03.tar", *members)
    assert f"{shard}: {said}" in problems(birds, "test")  # whichever split is opened
    assert not index_of(shard).exists()


@pytest.mark.parametrize("kept", [100, 512, 600, 1024, 2560, -512], ids=str)
def test_a_torn_shard_is_named(birds, kept):
    """Cut within a header, after it, within a member, between members, and before the end mark."""
    shard = birds / "train-01.tar"
    members = len(shard.read_bytes().rstrip(b"\0")) // 512 * 512 + 512  # bytes before the end mark
    shard.write_bytes(shard.read_bytes()[: kept % members if kept > 0 else members])
    assert f"{shard}: torn, or no uncompressed tar" in problems(birds)


def test_other_files_are_no_shards(tmp_path):
    packed = tmp_path / "train-0.tar"
    with tarfile.open(packed, "w:gz") as shard:
        shard.addfile(tarfile.TarInfo("a.png"))
    (tmp_path / "train-1.tar").write_bytes(b"")
    (tmp_path / "train-2.tar").write_bytes(bytes(10240))
    said = problems(tmp_path / "train-{0..3}.tar")
    assert f"{packed}: torn, or no uncompressed tar" in said
    assert "train-1.tar: torn, or no uncompressed tar" in said
    assert "train-2.tar: no captioned picture" in said
    assert "train-3.tar: cannot be read (No such file or directory)" in said


def test_the_validator_decodes_the_pictures_of_shards(birds, capsys):
    assert validate.main([f"shards:{birds}"]) == 0
    assert "train: 7 pictures, 14 captions" in capsys.readouterr().out
    write_shard(birds / "val-01.tar", ("10.png", png(1)[:60]), ("10.txt", b"bird number 1"))
    assert validate.main([f"shards:{birds}"]) == 1
    assert "10.png" in capsys.readouterr().out


def test_all_problems_of_all_shards_are_said_at_once(birds):
    for n in range(3):
        write_shard(birds / f"val-0{n}.tar", *bird(n), ("x.png", b"?"), ("y.txt", b"a"))
    with pytest.raises(DatasetError) as caught:
        CaptionShards(birds)
    assert len(caught.value.problems) == 6


@pytest.mark.parametrize(
    ("content", "said"),
    [(png()[:-40], "OSError"), (b"no picture", "UnidentifiedImageError"), (png(size=(400, 300)), "120000 pixels")],
)
def test_a_picture_that_cannot_be_used_is_named_when_it_is_asked_for(tmp_path, monkeypatch, content, said):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    shard = write_shard(tmp_path / "train.tar", ("a/b.png", content), ("a/b.txt", b"a bird"))
    data = CaptionShards(shard)
    with pytest.raises(DatasetError, match=rf"train\.tar/a/b\.png': its picture cannot be read \(.*{said}"):
        data[0]


def test_a_shard_that_changed_under_a_run_is_named(tmp_path):
    shard = write_shard(tmp_path / "train.tar", *bird(0))
    data = CaptionShards(shard)
    shard.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"birds/0\.png': its captions cannot be read .*the file ends before"):
        data.captions(0)
    with pytest.raises(IndexError, match="an index must lie in"):
        data.key(1)


@pytest.mark.parametrize("wrong", [{"image_size": 8}, {"seed": -1}, {"split": "val"}])
def test_arguments_out_of_range_are_refused(birds, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CaptionShards(birds, **wrong)

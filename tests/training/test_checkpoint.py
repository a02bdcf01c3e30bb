"""Checkpoints: whole or not there, and a damaged one is noticed."""

import random
import zipfile

import pytest
import torch

from t2ilayers.training import latest_checkpoint, load_checkpoint, save_checkpoint


class Unsavable:
    """Fails half-way through the write, as a full disk does."""

    def __reduce__(self):
        raise OSError(28, "No space left on device")


def test_a_failing_save_costs_nothing(tmp_path):
    save_checkpoint(tmp_path, 1, {"weight": torch.ones(3)})
    with pytest.raises(OSError, match=r"No space left.*step_00000002\.pt"):
        save_checkpoint(tmp_path, 2, {"weight": torch.ones(1000), "bad": Unsavable()})
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000001.pt"]
    state = load_checkpoint(latest_checkpoint(tmp_path))
    assert torch.equal(state["weight"], torch.ones(3))


def test_old_checkpoints_go_and_files_of_others_stay(tmp_path):
    (tmp_path / "step_00000001.tmp").touch()
    for step in (5, 40, 300):
        save_checkpoint(tmp_path, step, {})
    assert [p.name for p in sorted(tmp_path.iterdir())] == [
        "step_00000001.tmp", "step_00000040.pt", "step_00000300.pt",
    ]  # fmt: skip
    assert save_checkpoint(tmp_path, 7, {}).exists()  # what was just written stays, whatever its number
    with pytest.raises(FileNotFoundError, match="start without --resume"):
        latest_checkpoint(tmp_path / "nowhere")


def test_a_flipped_bit_anywhere_is_an_error_or_changes_nothing(tmp_path):
    generator = torch.Generator().manual_seed(0)
    state = {"weight": torch.randn(300, generator=generator), "flags": {"seed": 3}, "words": ["a", "bird"]}
    path = save_checkpoint(tmp_path, 3, state)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        weight = next(m for m in archive.infolist() if m.file_size == 1200)
    at = whole.index(state["weight"].numpy().tobytes())
    assert at > weight.header_offset
    places = [at, at + 1199, *random.Random(0).sample(range(len(whole)), 200)]
    noticed = 0
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        try:
            read = load_checkpoint(path)
        except ValueError:
            noticed += 1
        else:  # in what stands between the members
            assert not at <= place < at + 1200
            assert torch.equal(read.pop("weight"), state["weight"])
            assert read == {"step": 3, "flags": {"seed": 3}, "words": ["a", "bird"]}
    assert noticed > 100


def broken(path, kind):
    if kind == "torn":
        path.write_bytes(path.read_bytes()[:100])
    elif kind == "text":
        path.write_text("weights")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "compressed":
        with zipfile.ZipFile(path) as archive:
            members = {member.filename: archive.read(member) for member in archive.infolist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    else:
        torch.save({"list": [1], "tensor": torch.ones(2), "no step": {}, "a word": {"step": "3"}}[kind], path)


@pytest.mark.parametrize(
    "kind", ["torn", "text", "empty", "compressed", "folder", "list", "tensor", "no step", "a word"]
)
def test_what_is_no_checkpoint_is_named(tmp_path, kind):
    path = save_checkpoint(tmp_path, 3, {"weight": torch.ones(3)})
    broken(path, kind)
    with pytest.raises((ValueError, IsADirectoryError), match=r"step_00000003\.pt"):
        load_checkpoint(path)

"""Figures: sizes, and pixels that must be where they belong."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from t2ilayers.figures import loss_curves, mask_sheet, sample_sheet, save_image, to_picture

LONG = "the small orange triangle to the left of a very large magenta star on a checked olive background today"
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def flat(colour, side=32):
    return (torch.tensor(colour) / 127.5 - 1)[:, None, None].expand(3, side, side)


def test_pictures_stand_at_their_places():
    page = sample_sheet(torch.stack([flat(RED), flat(GREEN), flat(BLUE)]), ["a", "b", "c"], columns=2)
    # Cells of 128 px with margins of 12; captions lie between the rows.
    assert page.width == 12 + 2 * (128 + 12)
    pixels = np.array(page)
    assert (pixels[12 : 12 + 128, 12 : 12 + 128] == RED).all()
    assert (pixels[12 : 12 + 128, 152 : 152 + 128] == GREEN).all()
    rows = np.flatnonzero((pixels == BLUE).all(2).any(1))
    assert len(rows) == 128
    assert rows[0] > 12 + 128 + 12
    assert (pixels[rows, 12 : 12 + 128] == BLUE).all()
    assert (pixels[rows, 141:] == WHITE).all()
    assert (pixels[:12] == WHITE).all()
    assert (pixels[-12:] == WHITE).all()


@pytest.mark.parametrize(("side", "shown"), [(16, 128), (32, 128), (48, 144), (64, 128), (256, 256)])
def test_pictures_are_enlarged_by_whole_factors(side, shown):
    image = torch.rand(1, 3, side, side) * 2 - 1
    page = sample_sheet(image, ["red"])
    assert page.width == shown + 24
    block = page.crop((12, 12, 12 + shown, 12 + shown))
    original = np.array(to_picture(image[0]))
    assert (np.array(block) == original.repeat(shown // side, 0).repeat(shown // side, 1)).all()


def test_long_captions_wrap_within_their_cell():
    images = torch.ones(2, 3, 32, 32)
    page = np.array(sample_sheet(images, [LONG, "red"], columns=2))
    short = np.array(sample_sheet(images, ["red", "red"], columns=2))
    assert page.shape[1] == short.shape[1]
    assert page.shape[0] > short.shape[0] + 40
    ink = (page < 128).all(2)
    assert ink[:, :12].sum() == ink[:, 142:152].sum() == 0  # margins at the left and between the cells
    assert ink[-12:].sum() == 0
    assert ink[:, 12:142].sum() > 5 * ink[:, 152:].sum() > 0


def test_columns_default_to_a_square():
    assert sample_sheet(torch.zeros(16, 3, 16, 16), ["a"] * 16).width == 12 + 4 * 140
    assert sample_sheet(torch.zeros(1, 3, 16, 16), ["a"], columns=5).width == 12 + 140


def test_masks_stand_beside_their_picture():
    half = torch.full((2, 1, 4, 4), 0.2)
    half[..., 2:] = 0.6
    half[1] = 0.8 - half[1]  # the other half for the second caption
    constant = torch.full((2, 1, 8, 8), 0.5)
    page = np.array(mask_sheet(torch.stack([flat(RED), flat(BLUE)]), [half, constant], ["a", "b"]))
    assert page.shape[1] == 12 + 3 * 140
    for colour, left, right in ((RED, 51, 153), (BLUE, 153, 51)):  # 0.2 and 0.6 of 255
        rows = np.flatnonzero((page[:, 12:140] == colour).all((1, 2)))
        assert len(rows) == 128
        assert (page[rows, 152 : 152 + 64] == left).all()
        assert (page[rows, 152 + 64 : 280] == right).all()
        assert (page[rows, 292 : 292 + 128] == 128).all()  # at its own level, 0.5


def test_sheet_errors():
    images = torch.zeros(2, 3, 16, 16)
    with pytest.raises(ValueError, match=r"images must be \(N, 3, S, S\) with N >= 1, got \(0, 3, 16, 16\)"):
        sample_sheet(images[:0], [])
    with pytest.raises(ValueError, match="captions must be one per picture, 2, got 'ab'"):
        sample_sheet(images, "ab")
    with pytest.raises(ValueError, match="columns must be at least 1, got 0"):
        sample_sheet(images, ["a", "b"], columns=0)
    with pytest.raises(ValueError, match="min_side must be at least 1, got 0"):
        sample_sheet(images, ["a", "b"], min_side=0)
    with pytest.raises(ValueError, match=r"masks must be \(N, 1, s, s\) with N = 2, got \(1, 1, 4, 4\)"):
        mask_sheet(images, [torch.zeros(1, 1, 4, 4)], ["a", "b"])
    with pytest.raises(ValueError, match=r"image must be \(3, H, W\)"):
        to_picture(images)


def test_an_interrupted_write_leaves_the_former_file(tmp_path):
    path = tmp_path / "new" / "picture.jpg"
    save_image(Image.new("RGB", (4, 4), RED), path)
    before = path.read_bytes()
    with pytest.raises(OSError, match="RGBA"):
        save_image(Image.new("RGBA", (4, 4)), path)  # JPEG has no transparency
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["picture.jpg"]
    with pytest.raises(ValueError, match="picture's suffix"):
        save_image(Image.new("RGB", (4, 4)), tmp_path / "picture")


def write_log(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_curves_have_a_panel_per_group(tmp_path):
    def width_and_height(names):
        loss_curves([{"step": s} | dict.fromkeys(names, s) for s in (1, 2)], tmp_path / "curves.png")
        with Image.open(tmp_path / "curves.png") as picture:
            assert np.array(picture.convert("L")).std() > 0
            return picture.size

    one, three, four = (width_and_height("abcd"[:n]) for n in (1, 3, 4))
    assert three == (3 * one[0], one[1])
    assert four == (3 * one[0], 2 * one[1])
    names = ("d/real", "d/fake", "d/mismatched", "g/adversarial", "steps_per_second")
    assert width_and_height(names) == three


def test_curves_show_the_later_of_two_values_of_a_step(tmp_path):
    def drawn(records):
        loss_curves(write_log(tmp_path / "m.jsonl", records), tmp_path / "curves.png")
        return (tmp_path / "curves.png").read_bytes()

    steps = [{"step": s, "d": float(s * s % 7)} for s in range(60)]
    stale = [{"step": s, "d": 100.0} for s in range(30, 60)]
    assert drawn(steps[:30] + stale + steps[30:]) == drawn(steps)
    assert drawn(steps[:30] + stale) != drawn(steps)


def test_curves_of_one_point_and_of_values_that_are_not_finite(tmp_path):
    records = [{"step": 1, "e": 3.0, "f": 1.0}]
    records += [{"step": s, "d": float("nan") if s % 2 else 1.0} for s in range(40)]
    loss_curves(write_log(tmp_path / "m.jsonl", records), tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size[0] > 800


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"step": 1, "d": 1}\n{"step": 2, "d', 'got line 2: \'{"step": 2, "d\''),
        ('{"d": 1}\n', "got line 1"),
        ('{"step": 1, "d": "low"}\n', "could not convert string to float: 'low'"),
        ("[1, 2]\n", "got line 1"),
        ("", "got no losses"),
    ],
)
def test_a_damaged_log_is_named(tmp_path, text, message):
    log = tmp_path / "metrics.jsonl"
    log.write_text(text)
    with pytest.raises(ValueError, match=r"metrics\.jsonl") as caught:
        loss_curves(log, tmp_path / "curves.png")
    assert message in str(caught.value)
    assert not (tmp_path / "curves.png").exists()


def test_panels_that_no_curve_needs_stay_white(tmp_path):
    row = {"step": 1, "a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}  # three in a row, one below
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    loss_curves(tmp_path / "metrics.jsonl", tmp_path / "losses.png")
    pixels = np.asarray(Image.open(tmp_path / "losses.png").convert("L"))
    height, width = pixels.shape
    below = pixels[int(height * 0.55) :]
    assert (below[:, int(width * 0.4) :] == 255).all()
    assert (below[:, : width // 3] < 255).any()

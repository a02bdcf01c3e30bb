"""Losses as they are written, and what is left of them when a run ends."""

import json

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from t2ilayers.training import MetricsLog, NonFiniteLossError


def write_log(folder, start, stop):
    log = MetricsLog(folder, every=2)
    log.start(start)
    means = [log.add(step, {"discriminator/real": torch.tensor(float(step))}) for step in range(start, stop)]
    log.close()
    return means


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_log_continues_where_the_checkpoint_was_and_survives_a_torn_line(tmp_path):
    assert write_log(tmp_path, 0, 8)[-2:] == [{}, {"discriminator/real": 6.5}]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "discr')  # killed in writing
    write_log(tmp_path, 4, 6)
    assert [(row["step"], row["discriminator/real"]) for row in rows(tmp_path)] == [(1, 0.5), (3, 2.5), (5, 4.5)]
    assert all(row["steps_per_second"] > 0 for row in rows(tmp_path))
    assert not list(tmp_path.glob("*.foreign"))


FOREIGN = ["{]", "[1, 2]", "null", '{"epoch": 3}', '{"step": "3"}', '{"step": true}', "", "[" * 10**5, "\x00\xff"]


@pytest.mark.parametrize("line", FOREIGN, ids=[line[:14] or "empty" for line in FOREIGN])
def test_a_log_of_another_program_is_kept_beside_and_ends_nothing(tmp_path, line, capsys):
    write_log(tmp_path, 0, 4)
    theirs = line + "\n" + (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(theirs)
    write_log(tmp_path, 2, 4)
    assert [row["step"] for row in rows(tmp_path)] == [1, 3]
    assert (tmp_path / "metrics.jsonl.foreign").read_text() == theirs
    assert "metrics.jsonl has lines that no run wrote" in capsys.readouterr().err


def test_a_log_that_vanished_under_a_run_ends_nothing(tmp_path):
    log = MetricsLog(tmp_path, every=1)
    log.start(0)
    log.draw(tmp_path / "losses.png")  # nothing yet, so nothing drawn
    assert not (tmp_path / "losses.png").exists()
    log.add(0, {"generator/damsm": torch.tensor(3.0)})
    log.file.unlink()
    log.draw(tmp_path / "losses.png")
    with Image.open(tmp_path / "losses.png") as picture:
        assert picture.format == "PNG"
    log.add(1, {"generator/damsm": torch.tensor(2.0)})
    log.close()
    assert [row["step"] for row in rows(tmp_path)] == [1]


def test_tensorboard_has_the_losses_by_group(tmp_path):
    write_log(tmp_path, 0, 4)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["discriminator/real", "speed/steps_per_second"]
    assert [(e.step, e.value) for e in events.Scalars("discriminator/real")] == [(1, 0.5), (3, 2.5)]


def test_a_loss_that_is_not_finite_is_named_with_its_step(tmp_path):
    log = MetricsLog(tmp_path, every=3)
    log.start(0)
    for step, value in enumerate((1.0, float("inf"))):
        log.add(step, {"d/real": torch.tensor(0.0), "d/fake": torch.tensor(value)})
    with pytest.raises(NonFiniteLossError, match="d/fake is inf at step 1"):
        log.flush()
    log.close()
    assert rows(tmp_path) == []


def test_measured_numbers_stand_beside_losses_wherever_those_are(tmp_path):
    log = MetricsLog(tmp_path, every=3)
    log.start(0)
    for step in range(3):
        measured = {"retrieval/r_precision": 0.25} if step == 1 else {}
        log.add(step, {"d/real": torch.tensor(float(step))} | measured)
    log.add(3, {"retrieval/r_precision": float("nan")})
    with pytest.raises(NonFiniteLossError, match="r_precision is nan at step 3"):
        log.flush()
    log.close()
    (row,) = rows(tmp_path)
    assert (row["d/real"], row["retrieval/r_precision"]) == (1.0, 0.25)


def test_a_full_disk_names_the_file(tmp_path):
    log = MetricsLog(tmp_path, every=1)
    log.start(0)
    log.file.unlink()
    log.file.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: .*metrics\.jsonl"):
        log.add(0, {"d/real": torch.tensor(0.0)})
    log.close()

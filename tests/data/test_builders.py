"""Data sets of packages: what is read of an archive, what is refused, and that the folder opens as any other."""

import io
import json
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from t2ilayers.data import build, open_dataset, validate
from t2ilayers.data.builders import emoji, openclipart, package, rendering, stamps
from t2ilayers.data.builders.package import PackageError, package_files

STAMPS = "usr/share/tuxpaint/stamps"


def disc(colour=(200, 30, 30)):
    """A disc of 20 px in a transparent margin of 10 px."""
    rows, columns = np.mgrid[:40, :40] - 19.5
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[rows**2 + columns**2 < 100] = (*colour, 255)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def drawing(body='<rect width="8" height="4" fill="#0000ff"/>', metadata=""):
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:dc="d" xmlns:rdf="r" width="8pt" height="4pt">'
    return f"{head}{metadata}{body}</svg>".encode()


def tarred(files, mode="w:gz", change=lambda member: None):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            change(member)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def debian(data, name="data.tar.xz"):
    def member(name, content):
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        return head + content + b"\n" * (len(content) % 2)

    parts = member("debian-binary", b"2.0\n"), member("control.tar.xz", b"odd"), member(name, data)
    return b"!<arch>\n" + b"".join(parts)


SOME_STAMPS = {
    f"./{STAMPS}/animals/dog.png": disc(),
    f"./{STAMPS}/animals/dog.txt": b"A dog.\nde.utf8=Ein Hund.\n",
    f"./{STAMPS}/animals/dog.ogg": b"wuff",
    f"./{STAMPS}/animals/cartoon/bird.svg": drawing(),
    f"./{STAMPS}/animals/cartoon/bird.txt": b"A  blue bird!\n",
    f"./{STAMPS}/animals/torn.png": disc()[:60],
    f"./{STAMPS}/animals/torn.txt": b"A torn picture.\nde.utf8=Ein Riss.\n",
    "./usr/share/doc/tuxpaint-stamps-default/copyright": b"GPL-2",
}


@pytest.fixture
def deb(tmp_path):
    path = tmp_path / "stamps.deb"
    path.write_bytes(debian(tarred(SOME_STAMPS, "w:xz")))
    return path


def test_a_package_is_the_same_as_deb_as_tar_and_as_folder(deb, tmp_path):
    tar, folder = tmp_path / "stamps.tgz", tmp_path / "unpacked"
    tar.write_bytes(tarred(SOME_STAMPS))
    for name, content in SOME_STAMPS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    expected = {name[2:]: content for name, content in SOME_STAMPS.items() if not name.endswith(".ogg")}
    for path in (deb, tar, folder):
        assert dict(package_files(path, stamps.wanted)) == expected


def test_stamps_open_as_a_folder_with_their_transparency(deb, tmp_path, capsys):
    out = tmp_path / "data" / "stamps"
    assert build.main(["stamps", str(deb), str(out), "--image-size", "32"]) == 0
    printed = capsys.readouterr().out
    assert "2 pictures" in printed
    assert "torn.png" in printed
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text("utf-8").splitlines()]
    assert {row["text"]: row["style"] for row in rows} == {"A dog": "", "A blue bird": "drawn"}
    assert (out / "COPYRIGHT.txt").read_bytes() == b"GPL-2"
    assert "GPL-2" in (out / "ATTRIBUTION.txt").read_text()
    file = next(row["file_name"] for row in rows if row["text"] == "A dog")
    alpha = np.asarray(Image.open(out / file).getchannel("A")) > 127
    rows_, columns = np.mgrid[:32, :32] - 15.5
    circle = rows_**2 + columns**2 < 15**2  # the margin is cut off, and 0.94 of 32 px are filled
    assert (alpha & circle).sum() / (alpha | circle).sum() > 0.95
    assert list(tmp_path.joinpath("data").iterdir()) == [out]  # nothing temporary is left


def test_captions_of_another_language(deb, tmp_path):
    built = build.build("stamps", deb, tmp_path / "de", image_size=16, language="de")
    rows = (tmp_path / "de" / "metadata.jsonl").read_text("utf-8")
    assert (built.captions, len(built.bad), "Ein Hund" in rows) == (1, 1, True)


def test_pictures_of_one_caption_are_in_one_split_and_class(tmp_path):
    files = {}
    for n in range(100):
        files[f"{STAMPS}/{n}.png"] = disc((n, 0, 0))
        files[f"{STAMPS}/{n}.txt"] = f"Number {n // 2}.".encode()
    path = tmp_path / "stamps.tar"
    path.write_bytes(tarred(files, "w"))
    build.build("stamps", path, tmp_path / "out", image_size=16)
    train, test = (open_dataset(tmp_path / "out", split, image_size=16) for split in ("train", "test"))
    captions = [{dataset.captions(n) for n in range(len(dataset))} for dataset in (train, test)]
    assert len(train) + len(test) == 100
    assert not captions[0] & captions[1]
    assert len(set(train.class_ids.tolist())) == len(captions[0])
    assert validate.main([str(tmp_path / "out")]) == 0


def test_emoji_are_those_of_the_list(tmp_path):
    row = {
        "name": "GRINNING FACE",
        "unified": "1F600",
        "image": "1f600.png",
        "short_names": ["grinning_face", "grin"],
        "subcategory": "face-smiling",
        "category": "Smileys",
    }
    tone = row | {"image": "tone.png", "subcategory": "skin-tone"}
    files = {
        "package/emoji.json": json.dumps([row, tone, row | {"image": "nowhere.png"}]).encode(),
        "package/img/google/64/1f600.png": disc(),
        "package/img/google/64/tone.png": disc(),
        "package/LICENSE": b"MIT",
    }
    path = tmp_path / "emoji.tgz"
    path.write_bytes(tarred(files))
    documents = {}
    (item,) = emoji.read(path, documents)
    assert item.captions == ("grinning face", "an emoji of grinning face", "grin", "grinning face, face smiling")
    assert documents == {"LICENSE.txt": b"MIT"}


@pytest.mark.parametrize(
    ("title", "artist", "expected"),
    [
        ("Sea_Gull-02", "Ann Lee", "sea gull"),
        ("Clipart by Nicu B. - piggybank", "Nicu B.", "piggybank"),
        ("Ann Lee", "Ann Lee", None),
        ("Lemon SVG theme", "Ann Lee", None),
        ("Part of the Flat Icon Collection", "", None),
        ("  07 ", "", None),
        ("Rubik&apos;s Cube", "", "rubik's cube"),
    ],
)
def test_titles_say_what_is_shown_or_are_left_out(title, artist, expected):
    keywords = "<rdf:li>toy</rdf:li><rdf:li>hash</rdf:li><rdf:li>ann lee</rdf:li>"
    creator = f"<dc:creator><dc:title>{artist}</dc:title></dc:creator>"
    said = openclipart.describe(f"<metadata><dc:title>{title}</dc:title>{keywords}{creator}</metadata>".encode())
    assert (said and said[0]) == expected
    if said and artist == "Ann Lee":
        assert said[1:] == (["toy"], "Ann Lee")


def test_titles_of_many_drawings_are_left_out(tmp_path):
    files = {}
    for n in range(9):
        metadata = f"<metadata><dc:title>{'card' if n < 7 else 'cake'}</dc:title></metadata>"
        files[f"usr/share/openclipart/svg/food/{n}.svg"] = drawing(metadata=metadata)
    path = tmp_path / "clips.deb"
    path.write_bytes(debian(tarred(files, "w"), "data.tar"))
    built = build.build("openclipart", path, tmp_path / "out", image_size=16)
    assert (sum(built.pictures.values()), built.captions) == (2, 2)


# What is refused


@pytest.mark.parametrize("name", ["../../etc/motd.txt", "/etc/motd.txt", f"{STAMPS}/../../x.png"])
def test_names_that_lead_outside_are_refused(name, tmp_path):
    path = tmp_path / "bad.tar"
    path.write_bytes(tarred({name: b"x"}, "w"))
    with pytest.raises(PackageError, match="leads outside of it"):
        list(package_files(path, stamps.wanted))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_what_is_no_regular_file_is_passed_over(kind, tmp_path):
    def change(member):
        member.type, member.linkname, member.size = kind, "/etc/passwd", 0

    path = tmp_path / "links.tar"
    path.write_bytes(tarred({f"{STAMPS}/a.png": b""}, "w", change))
    assert list(package_files(path, stamps.wanted)) == []


def test_links_of_a_folder_are_passed_over(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret")
    folder = tmp_path / "usr" / "share" / "tuxpaint" / "stamps"
    folder.mkdir(parents=True)
    (folder / "a.txt").symlink_to(secret)
    os.mkfifo(folder / "b.txt")
    assert list(package_files(tmp_path / "usr", stamps.wanted)) == []


@pytest.mark.parametrize("limit", ["MAX_FILE", "MAX_ALL", "MAX_FILES"])
def test_too_much_is_refused(limit, deb, monkeypatch):
    monkeypatch.setattr(package, limit, 2)
    with pytest.raises(PackageError, match=r"at most 2 bytes|are in it"):
        list(package_files(deb, stamps.wanted))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.deb", b"no archive", "no Debian package"),
        ("a.deb", debian(b"", "data.tar.zst"), "dpkg-deb -x"),
        ("a.deb", debian(b"", "other"), "no data in it"),
        ("a.deb", debian(tarred(SOME_STAMPS, "w:xz")[:-900]), "a.deb"),
        ("a.tgz", tarred(SOME_STAMPS)[:-200], "a.tgz"),
        ("a.tar", b"no archive", "a.tar"),
        ("a.zip", b"", "must be a folder, a .deb"),
    ],
)
def test_damaged_packages_are_named(name, content, message, tmp_path, capsys):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SystemExit, match="2"):
        build.main(["stamps", str(path), str(tmp_path / "out")])
    assert message in " ".join(capsys.readouterr().err.split())
    assert sorted(found.name for found in tmp_path.iterdir()) == [name]


def test_a_drawing_does_not_show_pictures_of_this_machine(tmp_path):
    (tmp_path / "a.png").write_bytes(disc())
    outside = f'<image xlink:href="file://{tmp_path}/a.png" width="8" height="4"/>'
    with pytest.raises(ValueError, match="from outside of it"):
        rendering.square(drawing(outside), "a.svg", 16)


@pytest.mark.parametrize("content", [b"", b"<svg", drawing(""), disc()[:50]])
def test_what_shows_nothing_is_an_error(content):
    with pytest.raises((ValueError, OSError)):
        rendering.square(content, "a.svg" if b"<svg" in content or not content else "a.png", 16)


def test_a_folder_that_is_there_is_left_alone(deb, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(FileExistsError, match="is there already"):
        build.build("stamps", deb, tmp_path)
    assert sorted(tmp_path.iterdir()) == before

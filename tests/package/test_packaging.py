"""What is handed out: sdist and wheel are reproducible and complete, and the wheel works where it is installed."""

import email
import hashlib
import os
import re
import site
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import t2ilayers
from t2ilayers.ops import build

ROOT = Path(__file__).parents[2]
RUNTIME = {"torch", "numpy", "einops", "safetensors", "typing-extensions"}


def make(source, target, *kinds, epoch="1700000000", wheel=""):
    """The files that the build backend makes of the tree ``source``."""
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(target), *(f"-t{kind}" for kind in kinds)]
    dated = os.environ | {"SOURCE_DATE_EPOCH": epoch, "T2ILAYERS_WHEEL": wheel}
    subprocess.run(command, cwd=source, check=True, capture_output=True, env=dated)
    return sorted(target.iterdir())


def digests(files):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(sdist, wheel)"""
    files = make(ROOT, tmp_path_factory.mktemp("dist"), "sdist", "wheel")
    return sorted(files, key=lambda file: file.suffix)  # .gz, .whl


@pytest.fixture(scope="module")
def unpacked(built, tmp_path_factory):
    """The sdist's tree, in another place and with other times than the repository's."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(built[0]) as archive:
        archive.extractall(folder, filter="data")
    (tree,) = folder.iterdir()
    return tree


def test_building_twice_gives_the_same_bytes(built, unpacked, tmp_path):
    again = make(ROOT, tmp_path / "again", "sdist", "wheel")
    assert digests(again) == digests(built)
    from_sdist = make(unpacked, tmp_path / "from_sdist", "wheel")
    assert digests(from_sdist) == digests([built[1]])
    other = make(ROOT, tmp_path / "other", "wheel", epoch="1600000000")
    assert digests(other) != digests([built[1]])  # the date does go in: equality above says something


def test_the_wheel_is_pure_and_holds_every_file_of_the_package(built):
    assert built[1].name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(built[1]) as wheel:
        files = {name for name in wheel.namelist() if ".dist-info/" not in name}
        info = wheel.read(next(name for name in wheel.namelist() if name.endswith("/WHEEL"))).decode()
    package = ROOT / "src"
    there = {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()}
    there = {name for name in there if "__pycache__" not in name}
    assert files == there
    kernels = {Path(name).suffix for name in files if "/csrc/" in name}
    assert kernels >= {".cpp", ".h", ".inl", ".cu", ".cuh"}
    assert "Root-Is-Purelib: true" in info


def test_the_sdist_holds_what_tests_docs_and_demo_need(unpacked):
    needed = "Makefile constraints.txt mkdocs.yml tests examples benchmarks docs LICENSE CHANGELOG.md"
    for name in needed.split():
        assert (unpacked / name).exists(), name
    assert not (unpacked / ".venv").exists()


def test_metadata_says_the_version_once_and_asks_for_five_packages(built):
    with zipfile.ZipFile(built[1]) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith("/METADATA"))
        metadata = email.message_from_bytes(wheel.read(name))
    assert metadata["Version"] == t2ilayers.__version__
    assert f'"{t2ilayers.__version__}"' not in (ROOT / "pyproject.toml").read_text()
    assert f"version: {t2ilayers.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert metadata.get_all("Project-URL") is None  # no address is known but where T2ILAYERS_URL says it
    needed = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert {re.match(r"[\w-]+", line)[0] for line in needed} == RUNTIME


def test_a_release_shows_its_pictures_and_names_its_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("T2ILAYERS_URL", "https://example.org/us/t2ilayers/")
    (wheel,) = make(ROOT, tmp_path, "wheel")
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    assert "Source, https://example.org/us/t2ilayers" in metadata.get_all("Project-URL")
    at = f"https://example.org/us/t2ilayers/raw/v{t2ilayers.__version__}/docs/assets/hero.png"
    assert at in metadata.get_payload()
    assert re.findall(r"\]\((?!https://|#|LICENSE)[^)]*\)", metadata.get_payload()) == []


def test_twine_finds_nothing_to_mend(built):
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def platform_wheel(tmp_path_factory):
    """The wheel with the library, and what auditwheel makes of it."""
    if sys.platform != "linux" or build.why_not("cpu") is not None:
        pytest.skip("made on Linux, by a compiler")
    folder = tmp_path_factory.mktemp("platform")
    (wheel,) = make(ROOT, folder / "made", "wheel", wheel="platform")
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(
        [*(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", str(folder / "tagged"), str(wheel)),
         *("--exclude", "libtorch*.so", "--exclude", "libc10.so")],
        check=True, capture_output=True, env=os.environ | {"PATH": programs},
    )  # fmt: skip
    (tagged,) = (folder / "tagged").iterdir()
    return wheel, tagged


def install(wheel, folder):
    """Installs a wheel; returns where, and what runs Python code beside this torch, without this t2ilayers."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    install = ["install", "--quiet", "--no-index", "--no-deps", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    # Folders named in a .pth file come last, and .pth files in them, such as the editable install's, do not count.
    (packages / "torch.pth").write_text("\n".join(site.getsitepackages()))

    def run(code):
        command = [python, "-W", "error", "-I", "-c", code]
        result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return packages, run


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    return install(built[1], tmp_path_factory.mktemp("venv"))


def test_an_installed_wheel_imports_itself_and_loads_little_besides_torch(installed):
    packages, run = installed
    code = """
import sys, torch, numpy, einops, safetensors.torch, typing_extensions
before = set(sys.modules)
import t2ilayers, t2ilayers.losses, t2ilayers.interop
print(t2ilayers.__file__)
print(*sorted(name for name in set(sys.modules) - before if not name.startswith("t2ilayers")))
"""
    where, besides = run(code).splitlines()
    assert Path(where).is_relative_to(packages)
    # Compilers, tracers and torch.distributed take seconds; standard modules do not.
    packages_loaded = {name.partition(".")[0] for name in besides.split()} - set(sys.stdlib_module_names)
    assert packages_loaded <= {"torch", "einops", "numpy"}
    assert not re.search(r"torch\.(_dynamo|_inductor|export|onnx|utils\.cpp_extension)", besides)


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        files = [name for name in archive.namelist() if ".dist-info/" not in name and not name.endswith("/")]
        return {name: archive.read(name) for name in files}


def test_a_wheel_for_a_platform_is_the_pure_one_and_one_library(built, platform_wheel):
    wheel, tagged = platform_wheel
    assert "-py3-none-linux_" in wheel.name
    assert "-py3-none-manylinux_2_" in tagged.name  # what it needs of a system is what such systems have
    pure, carrying = contents(built[1]), contents(tagged)
    (library,) = set(carrying) - set(pure)
    assert carrying == pure | {library: carrying[library]}
    assert carrying == contents(wheel)
    assert Path(library).parent == Path("t2ilayers/ops/libraries")
    assert Path(library).stem.endswith(hashlib.sha256(carrying[library]).hexdigest()[:16])


def test_a_wheel_for_a_platform_computes_without_compiler_and_cache(platform_wheel, tmp_path):
    packages, run = install(platform_wheel[1], tmp_path / "venv")
    code = """
import os
os.environ.update(PATH="", XDG_CACHE_HOME="/nonexistent")
import torch
from t2ilayers.ops import build, masked_affine_norm
print(build.find("cpu"))
x, gamma, beta = torch.randn(2, 4, 8, 8), torch.randn(2, 4), torch.randn(2, 4)
y, expected = (masked_affine_norm(x, gamma, beta, impl=impl) for impl in ("native", "reference"))
torch.testing.assert_close(y, expected)
"""
    assert Path(run(code).strip()).parent == packages / "t2ilayers" / "ops" / "libraries"


@pytest.mark.skipif(build.why_not("cpu") is not None, reason="no native kernels here")
def test_the_kernels_of_an_installed_wheel_are_those_of_the_repository(installed):
    """A library's name is a digest of all its sources, so the same name is the same kernels."""
    code = """
import torch
from t2ilayers.ops import build, masked_affine_norm
print(build.build("cpu"))
x, gamma, beta = torch.randn(2, 4, 8, 8), torch.randn(2, 4), torch.randn(2, 4)
y, expected = (masked_affine_norm(x, gamma, beta, impl=impl) for impl in ("native", "reference"))
torch.testing.assert_close(y, expected)
"""
    assert installed[1](code).strip() == str(build.build("cpu"))


def test_the_wheel_needs_no_compiler_to_be_installed_or_imported(installed):
    code = """
import os
os.environ.update(PATH="", T2ILAYERS_BUILD="0", XDG_CACHE_HOME="/nonexistent")
import warnings, torch, t2ilayers
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    t2ilayers.SemanticAffineBN(4)(torch.randn(2, 4, 4, 4), torch.randn(2, 256))
print(*(warning.message for warning in caught))
"""
    assert "T2ILAYERS_BUILD=0" in installed[1](code)


def test_the_changelog_keeps_its_form():
    text = (ROOT / "CHANGELOG.md").read_text()
    releases = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert releases[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", release) for release in releases[1:])
    kinds = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}

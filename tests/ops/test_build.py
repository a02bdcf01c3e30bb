"""Building, finding and loading native libraries, with real compilers on small sources, and the doctor.

How the libraries are kept is tested in test_cache.py.
"""

import fcntl
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from t2ilayers import doctor
from t2ilayers.ops import _cache, _compilers, build

TINY = {
    "one.cpp": '#include "common.h"\nextern "C" int one() { return NUMBER; }\n',
    "two.cpp": 'extern "C" int two() { return 2; }\n',
    "common.h": "#define NUMBER 1\n",
}
OPS = {
    "ops.cpp": """
        #include <torch/csrc/stable/library.h>
        #include <torch/csrc/stable/ops.h>
        #include <torch/csrc/stable/tensor.h>
        using torch::stable::Tensor;
        std::string cpu_capability() { return "stub"; }
        Tensor twice(const Tensor& x) {
          Tensor y = torch::stable::empty_like(x);
          for (int64_t i = 0; i < x.numel(); ++i)
            y.mutable_data_ptr<float>()[i] = 2 * x.const_data_ptr<float>()[i];
          return y;
        }
        STABLE_TORCH_LIBRARY(t2ilayers, m) {
          m.def("cpu_capability() -> str");
          m.def("twice(Tensor x) -> Tensor");
        }
        STABLE_TORCH_LIBRARY_IMPL(t2ilayers, CPU, m) { m.impl("twice", TORCH_BOX(&twice)); }
        STABLE_TORCH_LIBRARY_IMPL(t2ilayers, CompositeExplicitAutograd, m) {
          m.impl("cpu_capability", TORCH_BOX(&cpu_capability));
        }
        """,
    # What it takes from libtorch_cuda is weak, as in the real sources, so that it loads without it.
    "cuda.cu": """
        #include <torch/csrc/stable/library.h>
        extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void**);
        __global__ void kernel(float* y) { y[threadIdx.x] *= 2; }
        void twice(StableIValue*, uint64_t, uint64_t) {
          void* stream;
          aoti_torch_get_current_cuda_stream(0, &stream);
          kernel<<<1, 1, 0, static_cast<cudaStream_t>(stream)>>>(nullptr);
        }
        STABLE_TORCH_LIBRARY_IMPL(t2ilayers, CUDA, m) { m.impl("twice", &twice); }
        """,
}
# In a process of its own: the sources are the first argument.
STAND_IN = """
import sys, pathlib, torch
from t2ilayers import doctor
from t2ilayers.ops import build
build._SOURCES = pathlib.Path(sys.argv.pop(1))
"""
COMPILING = (
    "t2ilayers: compiling native kernels for CPU tensors, once, for about a minute; T2ILAYERS_BUILD=0 forbids it\n"
)
nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")


class Workshop:
    """A folder of sources, a cache of its own, and a C++ compiler that keeps a log of its compilations."""

    def __init__(self, folder, monkeypatch, files):
        self.sources, self.log, self.cxx = folder / "csrc", folder / "log", folder / "cxx"
        self.cache, self.monkeypatch = folder / "t2ilayers", monkeypatch
        self.sources.mkdir()
        for name, text in files.items():
            (self.sources / name).write_text(text)
        self.log.touch()
        self.set_compiler()
        monkeypatch.setattr(build, "_SOURCES", self.sources)
        monkeypatch.setattr(build, "_outcomes", {})
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
        monkeypatch.setenv("CXX", str(self.cxx))
        monkeypatch.delenv("T2ILAYERS_BUILD", raising=False)

    def set_compiler(self, before_compiling=":", version="1.0"):
        self.cxx.write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && echo "c++ {version}" && exit\n'
            f'case " $* " in *" -c "*) echo "$*" >> {self.log}; {before_compiling};; esac\nexec c++ "$@"\n'
        )
        self.cxx.chmod(0o755)

    def hide_ninja(self):
        programs = self.cxx.parent / "programs"
        programs.mkdir()
        (programs / "ninja").write_text("#!/bin/sh\nexit 1\n")
        (programs / "ninja").chmod(0o755)
        self.monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)

    def compilations(self):
        return len(self.log.read_text().splitlines())

    def start(self, code, *args):
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-c", STAND_IN + code, str(self.sources), *args],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, code, *args):
        process = self.start(code, *args)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    return Workshop(tmp_path, monkeypatch, TINY)


@pytest.fixture
def ops(tmp_path, monkeypatch):
    return Workshop(tmp_path, monkeypatch, OPS)


def test_what_is_built_is_found_until_something_it_is_made_of_changes(tiny, monkeypatch, capfd):
    assert build.find("cpu") is None
    path = build.build()
    assert tiny.compilations() == 2
    assert capfd.readouterr() == ("", COMPILING)

    header, source, new = (tiny.sources / name for name in ("common.h", "two.cpp", "three.inl"))
    cxx = str(tiny.cxx)
    changes = {
        "header": (lambda: header.write_text("#define NUMBER 3\n"), lambda: header.write_text(TINY[header.name])),
        "source": (lambda: source.write_text("int two();\n"), lambda: source.write_text(TINY[source.name])),
        "new file": (new.touch, new.unlink),
        "compiler": (lambda: tiny.set_compiler(version="2.0"), tiny.set_compiler),
        "option": (lambda: monkeypatch.setenv("CXX", f"{cxx} -g"), lambda: monkeypatch.setenv("CXX", cxx)),
    }
    for name, (change, undo) in changes.items():
        change()
        assert build.find("cpu") is None, name
        undo()
        assert build.build() == build.find("cpu") == path, name
    (tiny.sources / "cuda.cu").touch()  # of the other library
    assert build.build() == build.find("cpu") == path
    assert tiny.compilations() == 2
    assert capfd.readouterr() == ("", "")

    # Where none can be built, one built before by whatever compiler serves.
    for variable, value in (("T2ILAYERS_BUILD", "0"), ("CXX", "/nonexistent"), ("CXX", 'c++ "')):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            assert build.build() == build.find("cpu") == path
    assert build.why_not("cpu") is None  # it loads


def carry(workshop, monkeypatch):
    """Gives the installation a library, as a wheel for one platform does, and leaves the cache empty."""
    library = build.build()
    place = workshop.sources.parent / "libraries"
    place.mkdir()
    carried = library.rename(place / f"{build.carried_key()}-{library.stem.rpartition('-')[2]}.so")
    monkeypatch.setattr(build, "_CARRIED", place)
    return carried


@pytest.mark.parametrize(
    ("variable", "value"), [("T2ILAYERS_BUILD", "0"), ("CXX", "/nonexistent"), ("CXX", "c++ -g")]
)
def test_the_library_that_an_installation_carries_is_used_by_any_compiler_and_by_none(
    tiny, monkeypatch, variable, value
):
    carried = carry(tiny, monkeypatch)
    compiled = tiny.compilations()
    monkeypatch.setenv(variable, value)
    assert build.find("cpu") == build.build() == carried
    monkeypatch.setattr(torch, "__version__", "3.0.0")  # a later torch
    assert build.find("cpu") == carried
    assert tiny.compilations() == compiled
    assert build.why_not("cpu") is None  # it loads
    (tiny.sources / "common.h").write_text("#define NUMBER 3\n")
    monkeypatch.delenv(variable)
    assert build.find("cpu") is None  # of other sources


def test_a_carried_library_that_others_could_change_is_not_loaded(tiny, monkeypatch):
    carried = carry(tiny, monkeypatch)
    carried.parent.chmod(0o777)
    assert build.find("cpu") is None
    assert "carried library" in dict(doctor.report())
    assert dict(doctor.report())["carried library"].startswith(f"{carried.parent} can be written by others")
    with monkeypatch.context() as patch:
        patch.setenv("T2ILAYERS_BUILD", "0")
        with pytest.raises(RuntimeError, match=r"can be written by others.*; install t2ilayers into a folder"):
            build.build()
    compiled = build.build()
    assert compiled.parent == tiny.cache
    carried.parent.chmod(0o755)
    assert build.find("cpu") == carried
    carried.write_bytes(carried.read_bytes()[:-1])
    assert build.find("cpu") == compiled


def test_a_builder_that_is_killed_leaves_nothing_in_the_way(tiny, tmp_path):
    (tiny.sources / "two.cpp").unlink()
    started, never = tmp_path / "started", tmp_path / "never"
    os.mkfifo(started)
    os.mkfifo(never)
    reader = os.open(started, os.O_RDONLY | os.O_NONBLOCK)
    # The compiler says who it is, then lives on past the death of the process that started it.
    tiny.set_compiler(before_compiling=f"echo $$ > {started}; exec cat {never}")
    builder = tiny.start("build.build()")
    assert select.select([reader], [], [], 120)[0], "nothing was compiled"
    compiler = int(os.read(reader, 100))
    os.close(reader)
    try:
        builder.kill()
        builder.communicate()
        assert len(list(tiny.cache.glob("*.tmp"))) == 1
        with next(tiny.cache.glob("*.lock")).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if anyone holds it
        tiny.set_compiler()
        assert build.build() == build.find("cpu")
        assert not list(tiny.cache.glob("*.tmp"))
    finally:
        os.kill(compiler, signal.SIGKILL)


@pytest.mark.parametrize("ninja", [True, False], ids=["with ninja", "without ninja"])
def test_a_compiler_error_is_shown_and_its_cause_mended(tiny, ninja):
    if not ninja:
        tiny.hide_ninja()
    (tiny.sources / "two.cpp").write_text("#error the moon is too bright\n")
    shown = r"^compiling the cpu library failed(?s:.*)-O2(?s:.*)the moon"
    with pytest.raises(RuntimeError, match=shown) as raised:
        build.build()
    sentence = str(raised.value).splitlines()[0]
    assert "two.cpp:1:2: error: #error the moon is too bright" in sentence
    assert sentence.endswith("python -m t2ilayers.doctor --build shows why")
    assert build.why_not("cpu") == sentence
    assert {p.suffix for p in tiny.cache.iterdir()} == {".lock"}
    if ninja:  # either way would do
        (tiny.sources / "two.cpp").write_text(TINY["two.cpp"])
        assert build.build().exists()


def test_a_file_that_fails_ends_the_others(tiny, tmp_path):
    os.mkfifo(tmp_path / "never")
    (tiny.sources / "two.cpp").write_text("#error the moon is too bright\n")
    tiny.set_compiler(before_compiling=f'case "$*" in *one.cpp*) cat {tmp_path}/never;; esac')
    with pytest.raises(RuntimeError, match=r"failed \(.*the moon is too bright"):
        build.build()


def test_a_compiler_that_hangs_is_ended_with_all_it_has_started(tiny, tmp_path, monkeypatch):
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    os.mkfifo(tmp_path / "never")
    hang = f"(echo alive; exec cat {tmp_path}/never) > {alive} & wait"
    with pytest.raises(RuntimeError, match=r"^the compiler does not run \(ended after 0.5 s\); python -m"):
        _compilers.run(["sh", "-c", hang], "the compiler does not run", limit=0.5)
    assert os.read(reader, 100) == b"alive\n"
    select.select([reader], [], [], 30)  # those that were ended may take a moment
    assert os.read(reader, 100) == b""  # nobody has it open for writing any more
    os.close(reader)

    # ninja's compilers are in process groups of their own.
    if shutil.which("ninja"):
        rules = f"rule hang\n  command = {hang}\nbuild out: hang\n"
        (tmp_path / "build.ninja").write_text(rules)
        reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
        with pytest.raises(RuntimeError, match=r"^ninja does not end \(ended after 2 s\)"):
            _compilers.run(["ninja", "-C", str(tmp_path)], "ninja does not end", limit=2)
        assert os.read(reader, 100) == b"alive\n"
        select.select([reader], [], [], 30)
        assert os.read(reader, 100) == b""
        os.close(reader)

    monkeypatch.setattr(build, "_LIMIT", 0.5)
    assert build.why_not("cpu").startswith("compiling the cpu library failed (ended after 0.5 s); python -m")
    assert {p.suffix for p in tiny.cache.iterdir()} == {".lock"}


def test_sources_edited_meanwhile_are_not_taken_for_what_was_compiled(tiny):
    tiny.set_compiler(before_compiling=f"echo >> {tiny.sources}/common.h")
    path = build.build()
    assert build.find("cpu") is None
    (tiny.sources / "common.h").write_text(TINY["common.h"])
    assert build.find("cpu") == path


def test_the_cache_may_have_any_name_and_the_compiler_several_words(tiny, monkeypatch, tmp_path):
    (tiny.sources / "two.cpp").unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a $b:c'd|ünïcode"))
    monkeypatch.setenv("CXX", f"env {tiny.cxx} -DMORE")
    assert build.build().exists()
    assert "-DMORE" in tiny.log.read_text()


def test_building_can_be_forbidden(tiny, monkeypatch):
    monkeypatch.setenv("T2ILAYERS_BUILD", "0")
    with pytest.raises(RuntimeError, match="T2ILAYERS_BUILD=0 forbids"):
        build.build()
    assert build.why_not("cpu") == "no library is built, and T2ILAYERS_BUILD=0 forbids compiling one"
    assert tiny.compilations() == 0


def test_without_a_compiler_the_reason_says_so(tiny, monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent")
    assert build.why_not("cpu") == "no C++ compiler: CXX='/nonexistent' leads to no program"
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match=r"found none of c\+\+, g\+\+, clang\+\+; install one, or set CXX"):
        build.build()
    monkeypatch.setenv("CUDA_HOME", "/nonexistent")
    with pytest.raises(RuntimeError, match="no CUDA compiler: CUDA_HOME='/nonexistent'"):
        build.build("cuda")


@pytest.mark.parametrize("unclosed", ['c++ "', "c++ 'x", '"'])
def test_a_compiler_that_is_no_command_is_named(tiny, monkeypatch, unclosed):
    monkeypatch.setenv("CXX", unclosed)
    assert build.why_not("cpu") == f"CXX must be a command, got {unclosed!r} (No closing quotation)"


def test_a_cache_that_others_can_write_is_refused_before_compiling(tiny):
    tiny.cache.mkdir()
    tiny.cache.chmod(0o777)
    assert re.match(f"{tiny.cache} can be written by others", build.why_not("cpu"))
    assert tiny.compilations() == 0


def test_a_library_that_cannot_be_loaded_is_named(tiny, monkeypatch):
    key = build._key("cpu", build._read_sources("cpu"), ()) + "-" + _compilers.find_compiler("cpu").key
    path = _cache.make(key, lambda folder: b"not a library")
    assert build.why_not("cpu").startswith(f"{path} cannot be loaded ({path}: file too short)")


@pytest.mark.parametrize("device", ["mps", "xpu", "meta"])
def test_other_devices_have_no_kernels(device):
    sentence = f"native kernels exist for CPU and CUDA tensors only, got {device!r}"
    assert build.why_not(device) == sentence
    with pytest.raises(RuntimeError, match=sentence):
        build.build(device)


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch is built for CUDA")
def test_a_torch_without_cuda_is_the_reason_and_nothing_is_compiled(tiny):
    assert build.why_not("cuda") == f"torch {torch.__version__} is built without CUDA"
    assert tiny.compilations() == 0


def test_architectures_are_for_cuda_only(tiny):
    with pytest.raises(ValueError, match="architectures are for device"):
        build.build("cpu", architectures=[90])


def test_cold_use_while_tracing_loads_registers_once_and_breaks_no_graph(ops):
    code = """
import functools
from t2ilayers.ops import _choice
from t2ilayers.ops._choice import takes_native
# There is no real op to register.
_choice._register = functools.cache(lambda: print("registered", torch.ops.t2ilayers.cpu_capability()))
def f(x):
    return x + 1 if takes_native(x.device.type, x.dtype, "auto") else x
x = torch.ones(2)
print(torch.compile(f, backend="eager", fullgraph=True)(x).tolist(), f(x).tolist(), build.why_not("cpu"))
print(torch.ops.t2ilayers.twice(x).tolist())
"""
    assert ops.run(code) == (0, "registered stub\n[2.0, 2.0] [2.0, 2.0] None\n[2.0, 2.0]\n", COMPILING)
    assert ops.compilations() == 1


@pytest.mark.skipif(torch.version.cuda is not None, reason="it would compile the kernels for CUDA as well")
def test_the_doctor_compiles_only_when_told_to(ops):
    code = """
doctor.main([])
print("compiled", len(pathlib.Path(sys.argv[1]).read_text().splitlines()))
sys.exit(doctor.main(["--build"]))
"""
    status, out, err = ops.run(code, str(ops.log))
    assert (status, err) == (0, COMPILING)
    before, after = out.split("compiled 0\n")
    assert f"C++ compiler     {ops.cxx}: c++ 1.0\n" in before
    assert "CPU library      not built yet; the first use compiles it\n" in before
    assert "CPU tensors      native kernels, once compiled\n" in before
    assert f"CPU library      {build.find('cpu')}\n" in after
    # The stand-in for the library has none of the real ops.
    assert re.search(
        r"^CPU tensors      the reference: the library .* lacks an op .*; delete it", after, re.MULTILINE
    )


def test_the_doctor_says_why_not(tiny, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "/nonexistent")
    reason = "no C++ compiler: CXX='/nonexistent' leads to no program\n"
    assert doctor.main([]) == 0
    assert f"CPU tensors      the reference: {reason}" in capsys.readouterr().out
    assert doctor.main(["--build"]) == 1
    assert capsys.readouterr() == ("", reason)


@nvcc
def test_an_architecture_that_nvcc_does_not_know_is_refused(tiny):
    (tiny.sources / "cuda.cu").touch()
    with pytest.raises(RuntimeError, match=r"release .* compiles for none of the architectures \(20,\)"):
        build.build("cuda", architectures=[20])


@pytest.mark.slow  # nvcc reads torch's headers
@nvcc
def test_the_cuda_check_loads_the_library_and_misses_kernels(ops):
    code = f"""
sys.path.append({str(Path(__file__).parent)!r})
import cuda_check
build.ARCHITECTURES = (90,)
print(cuda_check.main(), flush=True)
lone = torch.library.Library("t2ilayers", "FRAGMENT")
lone.define("lone(Tensor x) -> Tensor")
lone.impl("lone", torch.neg, "CPU")
sys.exit(cuda_check.main())
"""
    status, out, err = ops.run(code)
    assert "loaded: 1 ops have a CPU and a CUDA kernel\n" in out, err
    assert status == 1
    assert err.endswith("\nthese ops have a CPU kernel but no CUDA kernel: ['t2ilayers::lone']\n")

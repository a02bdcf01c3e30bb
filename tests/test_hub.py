"""Models to the Hub and back, against a small server that speaks as much of its protocol as that takes."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
import torch

from t2ilayers import SSAGAN, SSAGANConfig
from t2ilayers.encoders import Vocabulary

constants = pytest.importorskip("huggingface_hub.constants")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CAPTIONS = ["a red star", "a small blue ring"]


class Hub(BaseHTTPRequestHandler):
    """Repositories in memory; all files are regular ones, none of git-lfs."""

    repositories: dict[str, dict[str, bytes]]

    def answer(self, content=b"", status=200, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def answer_json(self, value):
        self.answer(json.dumps(value).encode(), Content_Type="application/json")

    def do_GET(self):
        path = urlsplit(self.path).path
        if match := re.fullmatch(r"/api/models/(\w+/\w+)/(revision|tree)/\w+", path):
            name, what = match.groups()
            if name not in self.repositories:
                self.answer(b"{}", 404, X_Error_Code="RepoNotFound")
            elif what == "revision":
                files = [{"rfilename": file} for file in self.repositories[name]]
                self.answer_json({"id": name, "sha": COMMIT, "siblings": files, "private": False})
            else:
                self.answer_json(
                    [
                        {
                            "type": "file",
                            "path": file,
                            "size": len(content),
                            "oid": hashlib.sha1(content).hexdigest(),
                        }
                        for file, content in self.repositories[name].items()
                    ]
                )
        elif match := re.fullmatch(r"/(\w+/\w+)/resolve/\w+/(.+)", path):
            content = self.repositories[match[1]][match[2]]
            tag = f'"{hashlib.sha1(content).hexdigest()}"'
            self.answer(content, ETag=tag, X_Repo_Commit=COMMIT, Accept_Ranges="bytes")
        else:
            self.answer(b"{}", 404)

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.path == "/api/validate-yaml":  # of the card
            self.answer_json({"errors": [], "warnings": []})
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.repositories[name] = {}
            self.answer_json({"url": f"http://{self.headers['Host']}/{name}", "name": name})
        elif match := re.fullmatch(r"/api/models/(\w+/\w+)/(preupload|commit)/main", urlsplit(self.path).path):
            if match[2] == "preupload":
                files = json.loads(body)["files"]
                regular = {"uploadMode": "regular", "shouldIgnore": False}
                self.answer_json({"files": [{"path": file["path"], **regular} for file in files]})
                return
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.repositories[match[1]][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer_json(
                {"commitUrl": f"http://{self.headers['Host']}/{match[1]}/commit/{COMMIT}", "commitOid": COMMIT}
            )
        else:
            self.answer(b"{}", 404)

    def log_message(self, format, *arguments):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The server, which the library takes for the Hub, with a cache and a folder of its own."""
    Hub.repositories = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield Hub
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def model():
    vocabulary = Vocabulary.build(CAPTIONS)
    torch.manual_seed(0)
    config = SSAGANConfig(16, ngf=4, ndf=2, cond_dim=16, embed_dim=8, mask_channels=4, vocab_size=len(vocabulary))
    return SSAGAN(config, vocabulary).eval()


def test_a_model_comes_back_from_the_hub_also_without_it_and_a_folder_goes_first(hub, model, monkeypatch):
    model.push_to_hub("ann/birds", card={"license": "mit", "data": "Two captions."})
    files = {"README.md", "config.json", "vocabulary.json", "model.safetensors"}
    assert files <= set(hub.repositories["ann/birds"])
    expected = model.generate(CAPTIONS, seed=0).images
    assert torch.equal(SSAGAN.from_pretrained("ann/birds").generate(CAPTIONS, seed=0).images, expected)

    hub.repositories.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(SSAGAN.from_pretrained("ann/birds").generate(CAPTIONS, seed=0).images, expected)

    with torch.no_grad():
        model.generator.fc.bias += 1
    model.save_pretrained("ann/birds")
    assert not torch.equal(SSAGAN.from_pretrained("ann/birds").generate(CAPTIONS, seed=0).images, expected)


def test_without_a_repository_or_a_connection_one_line_says_so(hub, model, monkeypatch):
    with pytest.raises(
        FileNotFoundError, match=r"^ann/none is no folder here, and the Hub did not .*; check"
    ) as one:
        SSAGAN.from_pretrained("ann/none")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        FileNotFoundError, match=r"^ann/none is no folder here, and the Hub did not .*; check"
    ) as two:
        SSAGAN.from_pretrained("ann/none")
    with pytest.raises(OSError, match=r"^the Hub did not take ann/birds .*; check the connection") as three:
        model.push_to_hub("ann/birds")
    assert not any("\n" in str(each.value) for each in (one, two, three))


def test_a_card_has_the_facts_it_was_given_and_its_example_runs(model, tmp_path):
    sheet = model.generate(CAPTIONS, seed=0).sheet(CAPTIONS)
    facts = {"license": "MIT", "data": "Shapes.", "figures": "FID 12.", "command": "t2ilayers train"}
    model.save_pretrained(tmp_path / "model", card=facts, sheet=sheet)
    text = (tmp_path / "model" / "README.md").read_text()
    head = text.split("---\n")[1]
    assert 'license: "mit"' in head
    assert "library_name: t2ilayers" in head
    assert all(part in text for part in ("Shapes.", "FID 12.", "```sh\nt2ilayers train\n```", "(sheet.png)"))
    assert (tmp_path / "model" / "sheet.png").read_bytes()[:4] == b"\x89PNG"
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    exec(code.replace("user/repo", str(tmp_path / "model")), {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"card": {"licence": "mit"}}, "among data, license, figures, command, got licence"),
        ({"sheet": object()}, "got no card"),
    ],
)
def test_what_no_card_holds_is_refused_before_anything_is_written(model, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.save_pretrained(tmp_path / "model", **arguments)
    assert not (tmp_path / "model").exists()


def test_only_user_and_name_make_a_repository(model):
    with pytest.raises(ValueError, match="named user/name, got birds"):
        model.push_to_hub("birds")


def test_without_the_extra_a_path_that_is_missing_is_said_to_be_missing(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"^runs/none is no folder here; .*\[hub\]'$"):
        SSAGAN.from_pretrained("runs/none")

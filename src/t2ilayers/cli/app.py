"""Play with a saved model in the browser: type captions, move seed and truncation, paint masks.

t2ilayers app MODEL

The page is app.html; Python's own server sends it, so that the browser is all that this needs besides `.[eval]`.
What it asks the server is in app.mjs: the documentation has the same page, which there draws without a server.
It answers the host that it serves and pages of its own: no other page in the browser, and no name that somebody
points at this machine, can draw or read anything.
"""

from __future__ import annotations

import base64
import contextlib
import io
import ipaddress
import json
import re
import signal
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from .._files import read_regular
from .._pretrained import model_folder
from ..encoders import Vocabulary
from ..figures import to_picture
from ..models import SSAGAN
from ..training import say
from ._script import read_flags, run_script

PAGE, BACKEND = (Path(__file__).with_suffix(suffix) for suffix in (".html", ".mjs"))
MOST_BYTES = 4 * 2**20  # of a request; painted masks for 256 px are 0.1 MB
MOST_SEED = 2**63 - 1
MOST_CAPTION = 10_000  # characters
MOST_MESSAGE = 600  # characters
HEADERS = {
    "Cache-Control": "no-store",
    # The page has its style and most of its script in it, and asks nobody but this server.
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src data:; script-src 'self'"
    " 'unsafe-inline'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
# Tried where a model's folder has no captions.txt, if it knows the words.
CAPTIONS = ("a big red star on a black background", "this bird has a red head and a white belly")
TRIED = "captions.txt"  # in a model's folder
MOST_TRIED = 8
FIELDS = {"caption", "seed", "truncation", "masks"}


@dataclass
class Arguments:
    """Serve a page to play with a saved model: captions, seed, masks to paint."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL]")] = "shapes32"
    """Folder written by SSAGAN.save_pretrained, or the name of a model of the package."""
    host: str = "127.0.0.1"
    """Address to listen at. The default is for this machine alone; 0.0.0.0 lets in all who reach it."""
    port: int = 8000
    """Port, 0 to 65535; 0 takes a free one."""


class App(ThreadingHTTPServer):
    """Draws one picture at a time, for whoever asks.

    ``GET /`` is the page, and ``GET /backend.mjs`` what it asks this server with. ``GET /model`` says
    ``{"name": str, "size": S, "stages": [4, 8, ..., S], "words": [...], "captions": [...]}`` with captions to try.
    ``POST /picture`` takes ``{"caption": str, "seed": int, "truncation": number or null, "masks": [...]}`` to
    ``{"image": a PNG as data: address, "masks": [...]}``.
    Masks are one per stage, coarse to fine: base64 of one byte per pixel, 255 for 1, or in a request null where
    the stage predicts its own. A mistake is answered ``{"error": str}``.

    Args:
        model: with its vocabulary.
        host: address to listen at.
        port: to listen at; 0 takes a free one.
        name: of the model, for the page's title.
        captions: to try; those with words that the model does not know are left out.

    Raises:
        OSError: the address cannot be listened at.
        ValueError: a port that does not exist.
    """

    def __init__(
        self,
        model: SSAGAN,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        name: str = "Model",
        captions: Sequence[str] = CAPTIONS,
    ) -> None:
        if not 0 <= port <= 65535:
            raise ValueError(f"--port must be in [0, 65535], got {port}")
        try:
            super().__init__((host, port), Handler)
        except OSError as error:
            raise OSError(f"cannot listen at {host}:{port}: {error.strerror}; try another --port") from error
        self.model = model
        self.name = name
        self.captions = captions
        self.host = host.lower()
        self.one_at_a_time = threading.Lock()
        self.stages = model.mask_sides

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{self.server_address[0]!s}:{self.server_port}/"

    def serves(self, host: str) -> bool:
        """Whether a Host header names this server. The port may be that of a tunnel.

        A name that a stranger points at this machine is not one of them. Where all addresses are listened at, any
        address may be this machine's, but of names only its own.
        """
        found = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([^\s:@/?#\[\]]+))(?::[0-9]{1,5})?", host.lower())
        name = found and (found[1] or found[2])
        if not name:
            return False
        listens = ipaddress.ip_address(str(self.server_address[0]))
        if name in (self.host, str(listens)):
            return True
        if name == "localhost":
            return listens.is_loopback or listens.is_unspecified
        return listens.is_unspecified and (name == socket.gethostname().lower() or _is_address(name))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing where a browser left before its answer came; else a traceback."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def describe(self) -> dict[str, Any]:
        vocabulary = self.model.vocabulary
        captions = [] if vocabulary is None else [text for text in self.captions if knows(vocabulary, text)]
        return {
            "name": self.name,
            "size": self.model.config.image_size,
            "stages": self.stages,
            "words": [] if vocabulary is None else vocabulary.words[1:],
            "captions": captions[:MOST_TRIED],
        }

    def draw(self, request: Any) -> dict[str, Any]:
        """Answer a request for a picture; ValueError says what is wrong with it."""
        if not isinstance(request, dict) or set(request) != FIELDS:
            raise ValueError(f"a request is an object with {', '.join(sorted(FIELDS))}, got {_short(request)}")
        caption, seed, truncation = request["caption"], request["seed"], request["truncation"]
        if not isinstance(caption, str):
            raise ValueError(f"caption must be a sentence, got {_short(caption)}")
        if len(caption) > MOST_CAPTION:
            raise ValueError(f"caption must have at most {MOST_CAPTION} characters, got {len(caption)}")
        if type(seed) is not int or not 0 <= seed <= MOST_SEED:
            raise ValueError(f"seed must be a whole number in [0, {MOST_SEED}], got {_short(seed)}")
        if truncation is not None and type(truncation) not in (int, float):
            raise ValueError(f"truncation must be a number or null, got {_short(truncation)}")
        masks = self.read_masks(request["masks"])
        with self.one_at_a_time:
            images, used = self.model.generate([caption], seed=seed, truncation=truncation, masks=masks)
        png = io.BytesIO()
        to_picture(images[0]).save(png, "PNG")
        return {
            "image": "data:image/png;base64," + base64.b64encode(png.getvalue()).decode(),
            "masks": [write_mask(mask) for mask in used],
        }

    def read_masks(self, texts: Any) -> list[Tensor | None]:
        if not isinstance(texts, list) or len(texts) != len(self.stages):
            raise ValueError(f"masks must be one a stage, {len(self.stages)}, or null each, got {_short(texts)}")
        device = self.model.device
        return [
            None if text is None else read_mask(text, side).to(device)
            for text, side in zip(texts, self.stages, strict=True)
        ]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def knows(vocabulary: Vocabulary, caption: str) -> bool:
    """Whether a caption has words, all of which the vocabulary has."""
    words = vocabulary.tokenize(caption)
    return bool(words) and all(word in vocabulary for word in words)


def read_captions(folder: Path) -> Sequence[str]:
    """The captions to try that ``t2ilayers train`` left beside a model, one per line."""
    if not (folder / TRIED).is_file():
        return CAPTIONS
    return read_regular(folder / TRIED, MOST_BYTES).decode(errors="replace").splitlines()


def read_mask(text: Any, side: int) -> Tensor:
    """Base64 of ``side²`` bytes to a mask ``(1, 1, side, side)`` in [0, 1]."""
    try:
        content = base64.b64decode(text, validate=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a mask must be base64 of its pixels, got {_short(text)}") from error
    if len(content) != side * side:
        raise ValueError(f"the mask of {side} px must be {side * side} bytes, got {len(content)}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).view(1, 1, side, side) / 255


def write_mask(mask: Tensor) -> str:
    content = (mask.float() * 255).round().to(torch.uint8).cpu().numpy().tobytes()
    return base64.b64encode(content).decode()


def _short(value: Any) -> str:
    return textwrap.shorten(repr(value)[:200], 80)


class Arriving(io.RawIOBase):
    """What arrives at a socket within some seconds in all; TimeoutError after them."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self.connection, self.until = connection, time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.connection.settimeout(left)
        return self.connection.recv_into(buffer)


class Handler(BaseHTTPRequestHandler):
    server: App
    seconds = 60.0  # for a whole request to arrive, and for its answer to be taken

    def setup(self) -> None:
        super().setup()
        self.refused = False
        self.rfile = io.BufferedReader(Arriving(self.connection, self.seconds))

    def finish(self) -> None:
        # Where a connection is closed on what was not read, the answer may be lost with it.
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            left = MOST_BYTES if self.refused else 0
            while left > 0 and (part := self.rfile.read1(2**16)):
                left -= len(part)
        super().finish()

    def do_GET(self) -> None:
        if not self.is_ours():
            return
        if self.path == "/":
            self.answer(HTTPStatus.OK, "text/html; charset=utf-8", PAGE.read_bytes())
        elif self.path == "/backend.mjs":
            self.answer(HTTPStatus.OK, "text/javascript; charset=utf-8", BACKEND.read_bytes())
        elif self.path == "/model":
            self.answer_json(HTTPStatus.OK, self.server.describe())
        else:
            self.refuse(HTTPStatus.NOT_FOUND, f"there is no {_short(self.path)}")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not self.is_ours():
            return
        if self.path != "/picture":
            self.refuse(HTTPStatus.NOT_FOUND, f"there is no {_short(self.path)}")
        elif not re.fullmatch("[0-9]+", length):
            self.refuse(HTTPStatus.LENGTH_REQUIRED, "a request must say its length")
        elif len(digits := length.lstrip("0") or "0") > len(str(MOST_BYTES)) or int(digits) > MOST_BYTES:
            message = f"a request must have at most {MOST_BYTES} bytes, got {_short(length)}"
            self.refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
        else:
            try:
                answer = self.server.draw(json.loads(self.rfile.read(int(digits))))
            except TimeoutError:
                self.refuse(HTTPStatus.REQUEST_TIMEOUT, f"a request must arrive within {self.seconds:g} seconds")
            except (ValueError, OverflowError, RecursionError) as error:
                self.refuse(HTTPStatus.BAD_REQUEST, str(error))
            else:
                self.answer_json(HTTPStatus.OK, answer)

    def is_ours(self) -> bool:
        """Whether a request is to this server and from a page of its own; if not, it is refused."""
        hosts, origins = (self.headers.get_all(name, []) for name in ("Host", "Origin"))
        if len(hosts) != 1 or not self.server.serves(hosts[0]):
            self.refuse(
                HTTPStatus.FORBIDDEN,
                f"Host must be that of {self.server.address}, got {_short(', '.join(hosts))}; "
                "start it with the --host by which it is reached",
            )
            return False
        if origins and [origin.partition("://")[2] for origin in origins] != hosts:
            self.refuse(HTTPStatus.FORBIDDEN, f"Origin must be that of the page, got {_short(', '.join(origins))}")
            return False
        return True

    def refuse(self, status: HTTPStatus, message: str) -> None:
        short = message if len(message) <= MOST_MESSAGE else f"{message[: MOST_MESSAGE - 3]}..."
        self.refused = True
        self.answer_json(status, {"error": short})

    def answer_json(self, status: HTTPStatus, value: dict[str, Any]) -> None:
        self.answer(status, "application/json", json.dumps(value).encode())

    def answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.connection.settimeout(self.seconds)
        self.send_response(status)
        for name, value in (HEADERS | {"Content-Type": kind, "Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Of the library: requests that are none, and methods that there are not."""
        status = HTTPStatus(code)
        self.request_version = self.protocol_version  # or what is no request would get no headers
        self.refuse(status, message or status.phrase)

    def version_string(self) -> str:
        return "t2ilayers"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a stroke of the brush is dozens of requests, and a browser opens connections in advance."""


def serve(arguments: Arguments) -> None:
    model = SSAGAN.from_pretrained(arguments.model, discriminator=False, image_encoder=False)
    model.to(torch.accelerator.current_accelerator() or torch.device("cpu"))
    folder = model_folder(arguments.model)
    where, captions = folder.resolve(), read_captions(folder)
    name = where.parent.name if where.name == "model" else where.name  # runs/demo/model is the demo's
    with App(model, arguments.host, arguments.port, name=name, captions=captions) as app:
        say(f"{arguments.model} at {app.address}, Ctrl-C ends")
        with contextlib.suppress(KeyboardInterrupt):
            app.serve_forever()


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started without it
    return run_script("app", lambda: serve(read_flags("app", Arguments, arguments)))

"""Play with a saved model in the browser: type captions, move seed and truncation, paint masks.

python examples/app.py MODEL

The page is app.html; Python's own server sends it, so that the browser is all that this needs besides `.[eval]`.
"""

from __future__ import annotations

import base64
import io
import json
import signal
import sys
import textwrap
import threading
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from t2ilayers import SSAGAN
from t2ilayers.figures import to_picture
from t2ilayers.training import keep_large_blocks

PAGE = Path(__file__).with_suffix(".html")
MOST_BYTES = 4 * 2**20  # of a request; painted masks for 256 px are 0.1 MB
MOST_SEED = 2**63 - 1
FIELDS = {"caption", "seed", "truncation", "masks"}


@dataclass
class Arguments:
    """Serve a page to play with a saved model: captions, seed and truncation, masks to paint."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder written by SSAGAN.save_pretrained."""
    host: str = "127.0.0.1"
    """Address to listen at. The default is for this machine alone; 0.0.0.0 lets in all who reach it."""
    port: int = 8000
    """Port, 0 to 65535; 0 takes a free one."""


class App(ThreadingHTTPServer):
    """Draws one picture at a time, for whoever asks.

    ``GET /`` is the page, ``GET /model`` says ``{"stages": [4, 8, ..., S], "words": [...]}``, and ``POST
    /picture`` takes ``{"caption": str, "seed": int, "truncation": number or null, "masks": [...]}`` to
    ``{"image": a PNG as data: address, "masks": [...]}``. Masks are one a stage, coarse to fine: base64 of a
    byte a pixel, 255 for 1, or in a request null where the stage predicts its own. A mistake is answered
    ``{"error": str}``.

    Args:
        model: with its vocabulary.
        host: address to listen at.
        port: to listen at; 0 takes a free one.

    Raises:
        OSError: the address cannot be listened at.
        ValueError: a port that does not exist.
    """

    def __init__(self, model: SSAGAN, host: str = "127.0.0.1", port: int = 0) -> None:
        if not 0 <= port <= 65535:
            raise ValueError(f"--port must be in [0, 65535], got {port}")
        try:
            super().__init__((host, port), Handler)
        except OSError as error:
            raise OSError(f"cannot listen at {host}:{port}: {error.strerror}; try another --port") from error
        self.model = model
        self.one_at_a_time = threading.Lock()
        self.stages = [2**i for i in range(2, model.config.image_size.bit_length())]

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{self.server_address[0]!s}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing where a browser left before its answer came; else a traceback."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def describe(self) -> dict[str, Any]:
        vocabulary = self.model.vocabulary
        return {"stages": self.stages, "words": [] if vocabulary is None else vocabulary.words[1:]}

    def draw(self, request: Any) -> dict[str, Any]:
        """Answer a request for a picture; ValueError says what is wrong with it."""
        if not isinstance(request, dict) or set(request) != FIELDS:
            raise ValueError(f"a request is an object with {', '.join(sorted(FIELDS))}, got {_short(request)}")
        caption, seed, truncation = request["caption"], request["seed"], request["truncation"]
        if not isinstance(caption, str):
            raise ValueError(f"caption must be a sentence, got {_short(caption)}")
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


class Handler(BaseHTTPRequestHandler):
    server: App
    timeout = 60  # seconds for a request to arrive

    def do_GET(self) -> None:
        if self.path == "/":
            self.answer(HTTPStatus.OK, "text/html; charset=utf-8", PAGE.read_bytes())
        elif self.path == "/model":
            self.answer_json(HTTPStatus.OK, self.server.describe())
        else:
            self.refuse(HTTPStatus.NOT_FOUND, f"there is no {self.path}")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if self.path != "/picture":
            self.refuse(HTTPStatus.NOT_FOUND, f"there is no {self.path}")
        elif not length.isdecimal():
            self.refuse(HTTPStatus.LENGTH_REQUIRED, "a request must say its length")
        elif int(length) > MOST_BYTES:
            self.refuse(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request has at most {MOST_BYTES} bytes, got {length}"
            )
        else:
            try:
                answer = self.server.draw(json.loads(self.rfile.read(int(length))))
            except (ValueError, OverflowError, RecursionError) as error:
                self.refuse(HTTPStatus.BAD_REQUEST, str(error))
            else:
                self.answer_json(HTTPStatus.OK, answer)

    def refuse(self, status: HTTPStatus, message: str) -> None:
        self.answer_json(status, {"error": message})

    def answer_json(self, status: HTTPStatus, value: dict[str, Any]) -> None:
        self.answer(status, "application/json", json.dumps(value).encode())

    def answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing: a stroke of the brush is dozens of requests."""


def serve(arguments: Arguments) -> None:
    model = SSAGAN.from_pretrained(arguments.model, discriminator=False, image_encoder=False)
    model.to(torch.accelerator.current_accelerator() or torch.device("cpu"))
    with App(model, arguments.host, arguments.port) as app:
        print(f"{arguments.model} at {app.address}, Ctrl-C ends", flush=True)
        app.serve_forever()


def main() -> int:
    arguments = tyro.cli(Arguments)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started without it
    keep_large_blocks()
    try:
        serve(arguments)
    except (OSError, ValueError) as error:
        print(f"app.py: {textwrap.shorten(str(error), 600)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())

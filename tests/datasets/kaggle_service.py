"""A stand-in for Kaggle on this computer: what the official client asks for when it downloads a data set."""

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USER, KEY, SIGNATURE = "some-user", "0123456789abcdef-key", "5ignature"
LIMIT = 20  # requests of one test


@dataclass
class Service:
    """What it serves and how it fails; `requests` lists what came."""

    archive: bytes = b""
    status: int = 200
    interrupt: bool = False  # the first transfer breaks off half way
    address: str = ""
    requests: list[str] = field(default_factory=list)
    bodies: list[dict] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    timeout = 5
    service: Service

    def do_POST(self) -> None:
        body = self.rfile.read(min(int(self.headers.get("Content-Length", 0)), 10_000))
        self.service.requests.append(f"POST {self.path}")
        self.service.bodies.append(json.loads(body))
        expected = "Basic " + base64.b64encode(f"{USER}:{KEY}".encode()).decode()
        if len(self.service.requests) > LIMIT:
            self.refuse(500)
        elif self.headers.get("Authorization") != expected:
            self.refuse(401)
        elif self.service.status != 200:
            self.refuse(self.service.status)
        else:
            self.answer(302, b"", Location=f"{self.service.address}/storage.zip?signature={SIGNATURE}")

    def do_GET(self) -> None:
        self.service.requests.append(f"GET {self.path.split('?')[0]} {self.headers.get('Range', '')}".strip())
        if len(self.service.requests) > LIMIT:
            self.refuse(500)
            return
        whole = self.service.archive
        start = int(re.sub(r"\D", "", self.headers.get("Range", "0")))
        headers = {"Accept-Ranges": "bytes", "ETag": '"1"', "Last-Modified": "Mon, 06 Jan 2020 10:00:00 GMT"}
        if self.service.interrupt:
            self.service.interrupt = False
            self.answer(200, whole[: len(whole) // 2], length=len(whole), **headers)
        else:
            self.answer(206 if start else 200, whole[start:], **headers)

    def refuse(self, status: int) -> None:
        said = {"code": status, "message": f"refused {self.headers.get('Authorization')} {USER}:{KEY}"}
        self.answer(status, json.dumps(said).encode(), **{"Content-Type": "application/json"})

    def answer(self, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body) if length is None else length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def serve() -> Iterator[Service]:
    service = Service()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("ThisHandler", (Handler,), {"service": service}))
    service.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)

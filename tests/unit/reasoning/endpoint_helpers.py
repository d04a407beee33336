"""A model server for tests."""

from __future__ import annotations

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """A model server that sends `reply` and keeps the requests: path, headers, body."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.reply: Any = {}
        self.status = 200
        self.trickle = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, dict(self.headers), body))
        reply = self.server.reply(body) if callable(self.server.reply) else self.server.reply
        data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(self.server.status)
        self.send_header("Location", self.server.url)
        self.end_headers()
        try:
            for byte in data if self.server.trickle else ():
                self.wfile.write(bytes([byte]))
                time.sleep(self.server.trickle)
            self.wfile.write(b"" if self.server.trickle else data)
        except OSError:
            pass

    def log_message(self, format: str, *args: object) -> None:
        pass

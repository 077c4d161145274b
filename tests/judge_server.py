"""A judge's endpoint on this machine, which answers what a test says."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

Reply = tuple[int, str, str]  # status, content type, body
Behaviour = Callable[[int, dict[str, Any]], Reply]


def completion(text: str | None, **keys: object) -> Reply:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    content = {"id": "x", "object": "chat.completion", "created": 0, "model": "judge-v1", "choices": [choice]} | keys
    return 200, "application/json", json.dumps(content)


def refusal(status: int, message: str = "no") -> Reply:
    return status, "application/json", json.dumps({"error": {"message": message, "type": "x", "code": None}})


class Server(ThreadingHTTPServer):
    """A real server on this machine that answers what `behaviour` says of the n-th request, counted from 1."""

    daemon_threads, request_queue_size = True, 64

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviour, self.requests, self.times, self.headers = behaviour, [], [], []
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append(body)
            self.server.times.append(time.monotonic())
            self.server.headers.append(self.headers)
            number = len(self.server.requests)
        status, kind, text = self.server.behaviour(number, body)
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(text.encode())
        except BrokenPipeError:  # the client did not wait
            pass

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[Behaviour], Server]]:
    servers = []

    def start(behaviour: Behaviour) -> Server:
        servers.append(Server(behaviour))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()

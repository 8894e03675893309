"""A loopback server that acts like vLLM or sglang, returns the stock class's rewards, and misbehaves on demand."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification


FAULTS = ("500", "503", "400", "hang up", "no JSON", "one too few", "nan")


class ServedState:
    """
    What is served, and what was asked. `faults(number)` says what goes wrong with request `number` (from 1), as one of
    `FAULTS`.

    `kind` is `"vllm"`, `"vllm pooling"` (which only has `/pooling`) or `"sglang"`; `offset` is added to every reward.
    """

    def __init__(
        self, folder: str, kind: str = "vllm", *, max_length: int = 10**6, key: str = "", offset: float = 0.0
    ):
        self.model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
        self.kind, self.max_length, self.key, self.offset = kind, max_length, key, offset
        self.faults: Callable[[int], str | None] = lambda number: None
        self.delay = 0.0
        self.lock = threading.Lock()
        self.number = self.answered = self.texts = 0
        self.bodies: list[dict[str, Any]] = []

    def rewards(self, ids: list[list[int]]) -> list[float]:
        """Rewards from the stock class, in batches of equal length, without padding."""
        found = [0.0] * len(ids)
        with self.lock, torch.no_grad():
            self.texts += len(ids)
            for length in {len(one) for one in ids}:
                numbers = [number for number, one in enumerate(ids) if len(one) == length]
                logits = self.model(torch.tensor([ids[number] for number in numbers])).logits[:, 0]
                for number, reward in zip(numbers, logits.tolist()):
                    found[number] = reward + self.offset
        return found


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: ServedState

    def log_message(self, *args: Any) -> None:
        """Prints nothing: tests read the state."""

    def answer(self, code: int, value: Any) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def fail(self, code: int, message: str) -> None:
        self.answer(code, {"error": {"message": message, "type": "BadRequestError", "param": None, "code": code}})

    def refused(self) -> bool:
        if self.state.key and self.headers.get("Authorization") != f"Bearer {self.state.key}":
            self.answer(401, {"error": f"Unauthorized: {self.headers.get('Authorization')}"})
            return True
        return False

    def do_GET(self) -> None:
        state = self.state
        if self.refused():
            return
        if self.path != "/v1/models":
            return self.answer(404, {"detail": "Not Found"})
        kind = state.kind.split()[0]
        entry = {"id": "served", "object": "model", "owned_by": kind, "root": "x", "max_model_len": state.max_length}
        self.answer(200, {"object": "list", "data": [entry]})

    def do_POST(self) -> None:
        state = self.state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.refused():
            return
        pooling = state.kind == "vllm pooling"
        if self.path != ("/pooling" if pooling else "/classify"):
            return self.answer(404, {"detail": "Not Found"})
        with state.lock:
            state.number += 1
            number = state.number
            state.bodies.append(body)
        fault = state.faults(number)
        time.sleep(state.delay)
        if fault == "hang up":
            self.close_connection = True
            return
        if fault in ("500", "503", "400"):
            return self.fail(int(fault), f"trouble number {number}, Bearer {state.key} and {state.key}")
        if fault == "no JSON":
            return self.answer(200, b"<html>")
        ids = body["input_ids" if state.kind == "sglang" else "input"]
        too_long = state.max_length - (state.kind == "sglang")
        if max(map(len, ids)) > too_long:
            return self.fail(400, f"This model's maximum context length is {state.max_length} tokens.")
        rewards = state.rewards(ids)
        if fault == "one too few":
            rewards.pop()
        if fault == "nan":
            rewards[0] = float("nan")
        self.answer(200, self.form(rewards))
        with state.lock:
            state.answered += 1

    def form(self, rewards: list[float]) -> Any:
        if self.state.kind == "sglang":
            return [{"embedding": [reward], "meta_info": {"prompt_tokens": 1}} for reward in rewards]
        if self.state.kind == "vllm pooling":
            data = [{"index": k, "object": "pooling", "data": [reward]} for k, reward in enumerate(rewards)]
        else:
            data = [
                {"index": k, "label": "LABEL_0", "probs": [reward], "num_classes": 1}
                for k, reward in enumerate(rewards)
            ]
        return {"id": "classify-1", "object": "list", "created": 0, "model": "served", "data": data[::-1], "usage": {}}


class _Server(ThreadingHTTPServer):
    """A server that ends like a killed process, closing its connections."""

    daemon_threads = True

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def break_connections(self) -> None:
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores errors: a killed client is expected."""


@contextmanager
def reward_server(state: ServedState, port: int = 0) -> Iterator[str]:
    """Serves on loopback until the end of the block; yields the address."""
    handler = type("Handler", (_Handler,), {"state": state})
    server = _Server(("127.0.0.1", port), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        server.break_connections()
        thread.join()

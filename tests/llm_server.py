"""A loopback endpoint for OpenAI's chat completions that counts its answers and misbehaves on demand."""

import hashlib
import json
import select
import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


MODEL = "tiny-chat"
FAULTS = ("429", "500", "hang", "garbage", "html", "half", "no choices")


class LLMState:
    """
    What the server was asked and what it answered.

    `faults` decides what goes wrong: it gets the number of the request (from 1) and the question, and returns one of
    `FAULTS`, or None for a normal answer.
    """

    def __init__(self, faults=None, key="sk-secret", reply=None, delay=lambda: 0.0, hang=3.0):
        self.faults = faults or (lambda number, question: None)
        self.key = key
        self.reply = reply or default_reply
        self.delay = delay
        self.hang = hang
        self.lock = threading.Lock()
        self.asked: list[tuple[str, str]] = []
        self.answered: Counter = Counter()
        self.faulted: Counter = Counter()
        self.bodies: list[dict] = []
        self.under_way = self.most_under_way = 0


def default_reply(system, query):
    """A text that depends on both, and a finish reason."""
    digest = hashlib.sha256(f"{system}\n{query}".encode()).hexdigest()
    words = [f"{digest[k : k + 5]}" for k in range(0, 60, 5)]
    return f"{system.split()[0]} says: " + " ".join(words) + ".", "stop"


class LLMHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: LLMState

    def log_message(self, *args):
        """Prints nothing: tests read the state."""

    def send(self, code, data, content_type="application/json", promised=None, **headers):
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(promised or len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def fail(self, code, message, kind, **headers):
        self.send(code, {"error": {"message": message, "type": kind, "code": kind}}, **headers)

    def authorized(self):
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.state.key and given != self.state.key:
            self.fail(401, f"Incorrect API key provided: {given}.", "invalid_api_key")
            return False
        return True

    def do_GET(self):
        if not self.path.startswith("/v1/"):
            self.fail(404, "Not found.", "not_found")
        elif self.authorized():
            self.send(
                200, {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "x"}]}
            )

    def do_POST(self):
        state = self.state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.authorized():
            return
        if not self.path.endswith("/v1/chat/completions") or body["model"] != MODEL:
            self.fail(404, f"The model `{body['model']}` does not exist.", "model_not_found")
            return
        question = tuple(message["content"] for message in body["messages"])
        with state.lock:
            state.asked.append(question)
            state.bodies.append(body)
            state.under_way += 1
            state.most_under_way = max(state.most_under_way, state.under_way)
            fault = state.faults(len(state.asked), question)
            state.faulted[fault] += 1
        try:
            time.sleep(state.delay())
            self.misbehave(fault) if fault else self.answer(question)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with state.lock:
                state.under_way -= 1

    def completion(self, text, finish_reason):
        return {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": MODEL,
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
            ],
            "usage": {"prompt_tokens": 7, "completion_tokens": 12, "total_tokens": 19},
        }

    def is_gone(self):
        """Whether the client has disconnected, so that a response would be lost."""
        if not select.select([self.connection], [], [], 0)[0]:
            return False
        try:
            return self.connection.recv(1, socket.MSG_PEEK) == b""
        except OSError:
            return True

    def answer(self, question):
        if self.is_gone():
            self.close_connection = True
            return
        self.send(200, self.completion(*self.state.reply(*question)))
        with self.state.lock:
            self.state.answered[question] += 1

    def misbehave(self, fault):
        whole = json.dumps(self.completion("this text is never whole", "stop")).encode()
        if fault == "429":
            self.fail(429, "Rate limit reached.", "rate_limit_exceeded", Retry_After="0.1")
        elif fault == "400":
            self.fail(400, "Unsupported parameter: 'max_tokens'.", "unsupported_parameter")
        elif fault == "500":
            self.fail(500, "The server had an error.", "server_error")
        elif fault == "hang":
            time.sleep(self.state.hang)
            self.close_connection = True
        elif fault == "garbage":
            self.send(200, whole[: len(whole) // 2])
        elif fault == "html":
            self.send(200, b"<html>Bad gateway</html>", content_type="text/html")
        elif fault == "no choices":
            self.send(200, {"error": {"message": "upstream is gone", "code": 502}})
        elif fault == "half":
            self.send(200, whole[: len(whole) // 2], promised=len(whole))
            self.close_connection = True


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        """Ignores errors: a killed client leaves broken connections."""


@contextmanager
def llm_server(**settings):
    """Runs the server on a free loopback port; yields its address (with `/v1`) and its state."""
    state = LLMState(**settings)
    server = Server(("127.0.0.1", 0), type("Handler", (LLMHandler,), {"state": state}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", state
    finally:
        server.shutdown()
        server.server_close()

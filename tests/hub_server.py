"""A loopback server that speaks the part of the Hub's HTTP API that uploads and downloads use."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse


class HubState:
    """What the server holds: files of each repository, large files by digest, and what it was asked."""

    def __init__(self, token):
        self.token = token
        self.repos: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: HubState

    def log_message(self, *args):
        """Nothing: the tests read `state.requests`."""

    def reply(self, code, body=b"", **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    @property
    def path_only(self):
        return urlparse(self.path).path

    def handle_request(self):
        payload = self.body()
        self.state.requests.append((self.command, self.path_only))
        large = self.path_only.startswith("/large/")
        if not large and self.headers.get("Authorization") != f"Bearer {self.state.token}":
            self.reply(
                401, {"error": "Invalid username or password."}, X_Error_Message="Invalid username or password."
            )
            return
        getattr(self, f"on_{self.command.lower()}")(payload)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def on_put(self, payload):
        digest = self.path_only.removeprefix("/large/")
        assert hashlib.sha256(payload).hexdigest() == digest
        self.state.large[digest] = payload
        self.reply(200, ETag=digest)

    def on_post(self, payload):
        path = self.path_only
        address = f"http://{self.headers['Host']}"
        if path == "/api/repos/create":
            request = json.loads(payload)
            name = "/".join(filter(None, [request.get("organization") or "tester", request["name"].split("/")[-1]]))
            if name in self.state.repos:
                self.reply(409, {"error": "exists", "url": f"{address}/{name}"})
                return
            self.state.repos[name] = {}
            self.reply(200, {"url": f"{address}/{name}", "name": name, "id": name})
        elif path == "/api/validate-yaml":
            self.reply(200, {"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = json.loads(payload)["files"]
            modes = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for f in files
            ]
            self.reply(200, {"files": modes})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**item, "actions": {"upload": {"href": f"{address}/large/{item['oid']}", "header": {}}}}
                for item in json.loads(payload)["objects"]
            ]
            self.reply(200, {"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")
        elif "/commit/" in path:
            name = path.removeprefix("/api/models/").split("/commit/")[0]
            for line in payload.decode().splitlines():
                item = json.loads(line)
                value = item["value"]
                if item["key"] == "file":
                    self.state.repos[name][value["path"]] = base64.b64decode(value["content"])
                elif item["key"] == "lfsFile":
                    self.state.repos[name][value["path"]] = self.state.large[value["oid"]]
            self.reply(
                200, {"success": True, "commitOid": "c" * 40, "commitUrl": f"{address}/{name}/commit/{'c' * 40}"}
            )
        else:
            self.reply(404, {"error": f"no such address: {path}"})

    def on_get(self, payload):
        self.reply(404, {"error": f"no such address: {self.path_only}"}, X_Error_Code="RepoNotFound")

    on_head = on_get


@contextmanager
def hub_server(token="hf_secret"):
    """Runs the server on a free loopback port; yields its address and its state."""
    state = HubState(token)
    handler = type("Handler", (HubHandler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", state
    finally:
        server.shutdown()
        server.server_close()

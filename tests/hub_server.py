"""
A loopback server with the part of the Hub's HTTP API that uploads and downloads use: models and datasets with branches
and commits, large files by the LFS protocol, and faults on demand.

Large files use LFS, not Xet. If `hf_xet` is installed, the clients have no fallback, so tests set HF_HUB_DISABLE_XET.
`huggingface_hub` then uploads in one commit, as it does without `hf_xet`.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlparse

import yaml


LARGE = (".safetensors", ".parquet", ".png")


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Repo:
    """One repository: files by path at each commit, branches by name."""

    def __init__(self, private=False):
        self.private = private
        self.commits = {}
        self.branches = {}
        self.messages = []
        self.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")

    def commit(self, branch, files, message):
        oid = hashlib.sha1(f"{len(self.commits)}{message}".encode()).hexdigest()
        self.commits[oid] = dict(files)
        self.branches[branch] = oid
        self.messages.append(message)
        return oid

    def resolve(self, revision):
        return self.branches.get(revision, revision if revision in self.commits else None)

    @property
    def files(self):
        """Files of the main branch."""
        return self.commits[self.branches["main"]]


class HubState:
    """The server's repositories, and the requests that it got."""

    def __init__(self, token):
        self.token = token
        self.may_write = True
        self.uploads_before_cut = None
        self.lock = threading.Lock()
        self.models: dict[str, Repo] = {}
        self.datasets: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []

    def repos(self, kind):
        return {"models": self.models, "datasets": self.datasets}[kind]

    def uploaded(self):
        """Digests of the uploaded large files, in order."""
        return [path.removeprefix("/large/") for command, path in self.requests if command == "PUT"]


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: HubState

    def log_message(self, *args):
        """Prints nothing: tests read `state.requests`."""

    def reply(self, code, body=b"", **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, code, message, error_code=""):
        self.reply(code, {"error": message}, X_Error_Message=message, X_Error_Code=error_code)

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def handle_request(self):
        path = urlparse(self.path).path
        if path.startswith("/large/"):
            self.store(path)
            return
        payload = self.body()
        self.state.requests.append((self.command, path))
        if self.headers.get("Authorization") != f"Bearer {self.state.token}":
            self.refuse(401, "Invalid username or password.")
            return
        for command, pattern, action in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in command:
                action(self, payload, **{name: unquote(value or "") for name, value in found.groupdict().items()})
                return
        self.refuse(404, f"no such address: {self.command} {path}")

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def store(self, path):
        with self.state.lock:  # clients send several files at once
            left = self.state.uploads_before_cut
            if left:
                self.state.uploads_before_cut = left - 1
        if left == 0:
            self.rfile.read(1)
            self.close_connection = True  # in the middle of the file, without a response
            self.connection.shutdown(2)
            return
        payload, digest = self.body(), path.removeprefix("/large/")
        assert hashlib.sha256(payload).hexdigest() == digest
        self.state.large[digest] = payload
        self.state.requests.append((self.command, path))
        self.reply(200, ETag=digest)

    def repo(self, kind, name):
        found = self.state.repos(kind).get(name)
        if found is None:
            self.refuse(404, "Repository not found", "RepoNotFound")
        return found

    def commit_of(self, repo, revision):
        oid = repo.resolve(revision or "main")
        if oid is None:
            self.refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid

    def writable(self):
        if not self.state.may_write:
            self.refuse(403, "You don't have the rights to write to this namespace.")
        return self.state.may_write

    # ---- requests ----

    def whoami(self, payload):
        self.reply(200, {"type": "user", "name": "tester", "orgs": [], "auth": {}})

    def create(self, payload):
        request = json.loads(payload)
        name = f"{request.get('organization') or 'tester'}/{request['name']}"
        kind = f"{request.get('type') or 'model'}s"
        address = f"http://{self.headers['Host']}/{'datasets/' if kind == 'datasets' else ''}{name}"
        if not self.writable():
            return
        if name in self.state.repos(kind):
            self.reply(409, {"error": "You already created this repo", "url": address})
            return
        private = request.get("visibility") == "private" or bool(request.get("private"))
        self.state.repos(kind)[name] = Repo(private)
        self.reply(200, {"url": address, "name": name, "id": name})

    def info(self, payload, kind, name, revision=""):
        repo = self.repo(kind, name)
        oid = repo and self.commit_of(repo, revision)
        if oid:
            siblings = [{"rfilename": path} for path in repo.commits[oid]]
            self.reply(
                200,
                {
                    "_id": "0" * 24,
                    "id": name,
                    "sha": oid,
                    "private": repo.private,
                    "siblings": siblings,
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                },
            )

    def entry(self, path, content):
        found = {"type": "file", "oid": git_hash(content), "size": len(content), "path": path}
        if path.endswith(LARGE):
            found["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return found

    def tree(self, payload, kind, name, revision, path=""):
        repo = self.repo(kind, name)
        oid = repo and self.commit_of(repo, revision)
        if not oid:
            return
        prefix = f"{path}/" if path else ""
        inside = {name: content for name, content in repo.commits[oid].items() if name.startswith(prefix)}
        recursive = parse_qs(urlparse(self.path).query).get("recursive", ["false"])[0].lower() == "true"
        if path and not inside:
            self.refuse(404, "Entry not found", "EntryNotFound")
            return
        entries = {}
        for file, content in inside.items():
            parts = file.removeprefix(prefix).split("/")
            for depth in range(1, len(parts)):
                folder = prefix + "/".join(parts[:depth])
                if recursive or depth == 1:
                    entries[folder] = {
                        "type": "directory",
                        "oid": git_hash(folder.encode()),
                        "size": 0,
                        "path": folder,
                    }
            if recursive or len(parts) == 1:
                entries[file] = self.entry(file, content)
        self.reply(200, list(entries.values()))

    def paths_info(self, payload, kind, name, revision):
        repo = self.repo(kind, name)
        oid = repo and self.commit_of(repo, revision)
        if oid:
            asked = (
                json.loads(payload)["paths"]
                if payload.startswith(b"{")
                else parse_qs(payload.decode()).get("paths", [])
            )
            files = repo.commits[oid]
            found = [self.entry(path, files[path]) for path in asked if path in files]
            found += [
                {"type": "directory", "oid": git_hash(path.encode()), "size": 0, "path": path}
                for path in asked
                if path not in files and any(file.startswith(f"{path}/") for file in files)
            ]
            self.reply(200, found)

    def validate_yaml(self, payload):
        content = json.loads(payload)["content"]
        errors = []
        try:
            metadata = yaml.safe_load(content.split("---\n")[1])
            license = metadata.get("license")
            if license is not None and license not in ("mit", "apache-2.0", "cc-by-nc-4.0", "cc-by-4.0", "other"):
                errors.append({"message": f'"license" must be one of a list, not {license}'})
        except (yaml.YAMLError, IndexError, AttributeError) as error:
            errors.append({"message": f"the metadata is not valid YAML: {error}"})
        self.reply(400 if errors else 200, {"errors": errors, "warnings": []})

    def preupload(self, payload, kind, name, revision):
        repo = self.repo(kind, name)
        oid = repo and self.commit_of(repo, revision)
        if not oid or not self.writable():
            return
        modes = []
        for file in json.loads(payload)["files"]:
            large = file["path"].endswith(LARGE)
            there = repo.commits[oid].get(file["path"])
            digest = None
            if there is not None:
                digest = hashlib.sha256(there).hexdigest() if large else git_hash(there)
            mode = "lfs" if large else "regular"
            modes.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": digest})
        self.reply(200, {"files": modes})

    def lfs_batch(self, payload, datasets, name):
        objects = []
        for item in json.loads(payload)["objects"]:
            if item["oid"] not in self.state.large:
                href = f"http://{self.headers['Host']}/large/{item['oid']}"
                item = {**item, "actions": {"upload": {"href": href, "header": {}}}}
            objects.append(item)
        self.reply(200, {"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")

    def commit(self, payload, kind, name, revision):
        repo = self.repo(kind, name)
        if repo is None or not self.writable():
            return
        files, message = dict(repo.commits[repo.resolve(revision)]), ""
        for line in payload.decode().splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.state.large[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        oid = repo.commit(revision, files, message)
        address = f"http://{self.headers['Host']}/{'datasets/' if kind == 'datasets' else ''}{name}/commit/{oid}"
        self.reply(200, {"success": True, "commitOid": oid, "commitUrl": address})

    def branch(self, payload, kind, name, revision):
        repo = self.repo(kind, name)
        if repo is None or not self.writable():
            return
        if revision in repo.branches:
            self.refuse(409, "Reference already exists")
            return
        repo.branches[revision] = repo.branches["main"]
        self.reply(200, {})

    def download(self, payload, datasets, name, revision, path):
        repo = self.repo("datasets" if datasets else "models", name)
        oid = repo and self.commit_of(repo, revision)
        if not oid:
            return
        content = repo.commits[oid].get(path)
        if content is None:
            self.reply(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=oid)
            return
        digest = hashlib.sha256(content).hexdigest() if path.endswith(LARGE) else git_hash(content)
        headers = {"ETag": f'"{digest}"', "X_Repo_Commit": oid, "Accept_Ranges": "bytes"}
        headers["Content_Type"] = "application/octet-stream"
        if path.endswith(LARGE):
            headers |= {"X_Linked_ETag": f'"{digest}"', "X_Linked_Size": str(len(content))}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked:
            begin, end = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
            headers["Content_Range"] = f"bytes {begin}-{end}/{len(content)}"
            self.reply(206, content[begin : end + 1], **headers)
        else:
            self.reply(200, content, **headers)


API = r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)"
ROUTES = [
    ("GET", r"/api/whoami-v2", HubHandler.whoami),
    ("POST", r"/api/repos/create", HubHandler.create),
    ("POST", r"/api/validate-yaml", HubHandler.validate_yaml),
    ("GET", API + r"(/revision/(?P<revision>[^/]+))?", HubHandler.info),
    ("GET", API + r"/tree/(?P<revision>[^/]+)(/(?P<path>.+))?", HubHandler.tree),
    ("POST", API + r"/paths-info/(?P<revision>[^/]+)", HubHandler.paths_info),
    ("POST", API + r"/preupload/(?P<revision>[^/]+)", HubHandler.preupload),
    ("POST", API + r"/commit/(?P<revision>[^/]+)", HubHandler.commit),
    ("POST", API + r"/branch/(?P<revision>[^/]+)", HubHandler.branch),
    ("POST", r"/(?P<datasets>datasets/)?(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", HubHandler.lfs_batch),
    (
        ("GET", "HEAD"),
        r"/(?P<datasets>datasets/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)",
        HubHandler.download,
    ),
]
ROUTES = [((command,) if isinstance(command, str) else command, *rest) for command, *rest in ROUTES]


@contextmanager
def hub_server(token="hf_secret"):
    """Runs the server on a free loopback port; yields its address and its state."""
    state = HubState(token)
    handler = type("Handler", (HubHandler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", state
    finally:
        server.shutdown()
        server.server_close()

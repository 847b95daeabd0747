"""A web server on this machine that stands in for the Hugging Face hub: repositories, commits and downloads."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.file_host import answering

TOKEN = "hf_of_this_test"
_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"


class HubHost(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        """Repository -> branch -> file -> content."""
        self.private: set[str] = set()
        self.blobs: dict[str, bytes] = {}
        self.seen: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, repo: str, branch: str) -> str:
        """The commit id of a branch; `branch` may already be a commit id."""
        branches = self.repos[repo]
        ids = {name: _commit_id(files) for name, files in branches.items()}
        return ids.get(branch, branch)

    def files(self, repo: str, revision: str) -> dict[str, bytes] | None:
        """The files of a branch or commit; None if there is none."""
        branches = self.repos.get(repo, {})
        by_id = {_commit_id(files): files for files in branches.values()}
        return branches.get(revision, by_id.get(revision))


def _commit_id(files: dict[str, bytes]) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: HubHost
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._resolve(body=False)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.seen.append(("GET", path))
        if match := re.fullmatch(rf"/api/models/{_REPO}(?:/revision/(?P<revision>.+))?", path):
            self._info(match["repo"], match["revision"] or "main")
        elif match := re.fullmatch(rf"/api/models/{_REPO}/tree/(?P<revision>[^/]+)", path):
            files = self._allowed(match["repo"], match["revision"])
            if files is not None:
                self._json([_entry(name, content) for name, content in files.items()])
        elif re.fullmatch(rf"/api/models/{_REPO}/refs", path):
            self._json({"branches": [], "converts": [], "tags": []})
        else:
            self._resolve(body=True)

    def do_PUT(self) -> None:
        content = self._body()
        self.server.seen.append(("PUT", self.path))
        self.server.blobs[hashlib.sha256(content).hexdigest()] = content
        self._json({})

    def do_POST(self) -> None:
        path, content = unquote(urlsplit(self.path).path), self._body()
        self.server.seen.append(("POST", path))
        if not self._logged_in():
            self._fail(401, "", "Invalid credentials")
        elif path == "/api/repos/create":
            self._create(json.loads(content))
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif match := re.fullmatch(rf"/api/models/{_REPO}/branch/(?P<branch>.+)", path):
            self.server.repos[match["repo"]].setdefault(match["branch"], {})
            self._json({})
        elif match := re.fullmatch(rf"/api/models/{_REPO}/preupload/(?P<revision>.+)", path):
            self._json({"files": [_mode(file["path"]) for file in json.loads(content)["files"]]})
        elif match := re.fullmatch(rf"/{_REPO}\.git/info/lfs/objects/batch", path):
            self._json(
                {"transfer": "basic", "objects": [self._upload(blob) for blob in json.loads(content)["objects"]]}
            )
        elif match := re.fullmatch(rf"/api/models/{_REPO}/commit/(?P<revision>.+)", path):
            self._commit(match["repo"], match["revision"], content)
        else:
            self._fail(404, "", "not implemented here")

    def _create(self, request: dict[str, Any]) -> None:
        owner = request.get("organization") or "someone"
        if owner == "others":
            self._fail(403, "", "You don't have the rights")
            return
        repo = f"{owner}/{request['name']}"
        exists = repo in self.server.repos
        self.server.repos.setdefault(repo, {"main": {}})
        if request.get("private") or request.get("visibility") == "private":
            self.server.private.add(repo)
        self._json({"url": f"{self.server.url}/{repo}"}, status=409 if exists else 200)

    def _upload(self, blob: dict[str, Any]) -> dict[str, Any]:
        href = f"{self.server.url}/upload/{blob['oid']}"
        return {"oid": blob["oid"], "size": blob["size"], "actions": {"upload": {"href": href, "header": {}}}}

    def _commit(self, repo: str, revision: str, content: bytes) -> None:
        files = dict(self.server.repos[repo][revision])
        for line in content.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
        self.server.repos[repo][revision] = files
        oid = _commit_id(files)
        self._json({"commitUrl": f"{self.server.url}/{repo}/commit/{oid}", "commitOid": oid, "pullRequestUrl": None})

    def _info(self, repo: str, revision: str) -> None:
        files = self._allowed(repo, revision)
        if files is not None:
            siblings = [{"rfilename": name} for name in files]
            self._json({"id": repo, "modelId": repo, "sha": _commit_id(files), "siblings": siblings, "private": False})

    def _resolve(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        match = re.fullmatch(rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", path)
        files = self._allowed(match["repo"], match["revision"]) if match else {}
        if files is None:
            return
        content = files.get(match["file"]) if match else None
        if content is None or match is None:
            self._fail(404, "EntryNotFound", "Entry not found")
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", _commit_id(files))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _allowed(self, repo: str, revision: str) -> dict[str, bytes] | None:
        files = self.server.files(repo, revision)
        if repo not in self.server.repos or (repo in self.server.private and not self._logged_in()):
            self._fail(401 if not self._logged_in() else 404, "RepoNotFound", "Repository not found")
            return None
        if files is None:
            self._fail(404, "RevisionNotFound", "Invalid rev id")
        return files

    def _logged_in(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _json(self, content: Any, *, status: int = 200) -> None:
        encoded = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def _fail(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def _mode(path: str) -> dict[str, Any]:
    return {
        "path": path,
        "uploadMode": "lfs" if path.endswith(".safetensors") else "regular",
        "shouldIgnore": False,
        "oid": None,
    }


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


def hub_host() -> AbstractContextManager[HubHost]:
    """A host that answers while the block runs."""
    return answering(HubHost())

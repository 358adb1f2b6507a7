"""A stand-in of the hub's API on this machine: repositories, commits and large files, as huggingface_hub asks for them."""

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_of_a_test_and_no_one_else"


class Hub:
    """What was sent: repositories with their visibility, files by name, and the paths asked for."""

    def __init__(self):
        self.repos, self.files, self.asked, self.large = {}, {}, [], {}
        self.refuses = False


def handler_of(hub):
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def answer(self, value, status=200):
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def body(self):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def do_GET(self):
            self.answer({})

        def do_PUT(self):
            hub.large[self.path.rsplit("/", 1)[-1]] = self.body()
            self.answer({})

        def do_POST(self):
            hub.asked.append(self.path)
            body = self.body()
            if hub.refuses or self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.answer({"error": f"Invalid credentials {self.headers.get('Authorization')}"}, 401)
            elif self.path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked.get('organization') or 'user'}/{asked['name']}"
                hub.repos[name] = asked
                self.answer({"url": f"{self.server.url}/{name}", "name": name, "id": name})
            elif self.path.endswith("/preupload/main"):
                files = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(body)["files"]
                ]
                self.answer({"files": files})
            elif self.path.endswith("/info/lfs/objects/batch"):
                objects = [
                    {
                        **one,
                        "actions": {"upload": {"href": f"{self.server.url}/put/{one['oid']}", "header": {}}},
                    }
                    for one in json.loads(body)["objects"]
                ]
                self.answer({"transfer": "basic", "objects": objects})
            elif self.path.endswith("/commit/main"):
                for line in map(json.loads, body.splitlines()):
                    value = line["value"]
                    if line["key"] == "file":
                        hub.files[value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "lfsFile":
                        hub.files[value["path"]] = hub.large[value["oid"]]
                self.answer(
                    {"commitUrl": f"{self.server.url}/user/tiny/commit/1", "commitOid": "1", "success": True}
                )
            else:
                self.answer({"errors": [], "warnings": []})

    return Handler


@contextmanager
def hub_stand_in():
    """The hub, and its URL."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(hub))
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub, server.url
    finally:
        server.shutdown()
        server.server_close()

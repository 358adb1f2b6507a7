"""A browser driven over WebDriver's HTTP, with nothing but Python: Debian's chromium and chromium-driver do the work."""

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
_ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip


class Browser:
    """One page at a time. `errors` and `requests` tell what the console and the network saw."""

    def __init__(self, profile: Path):
        assert Path(CHROMIUM).exists(), f"{CHROMIUM} is not there: apt-get install chromium chromium-driver"
        assert shutil.which(DRIVER), f"{DRIVER} is not there: apt-get install chromium chromium-driver"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._root = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._wait()
        options = {"binary": CHROMIUM, "args": [*_ARGUMENTS, f"--user-data-dir={profile}"]}
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{session['sessionId']}"

    def _wait(self):
        for _ in range(100):
            try:
                if self._call("GET", "/status")["ready"]:
                    return
            except OSError:
                time.sleep(0.1)
        raise TimeoutError("chromedriver did not start within 10 s")

    def _call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._root + path, data=data, method=method, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, url, *, width=1200, dark=False):
        """Open a page at that width, light or dark."""
        self.cdp(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.cdp("Emulation.setEmulatedMedia", features=[scheme])
        self._call("POST", self._session + "/url", {"url": "about:blank"})
        self.errors(), self.requests()  # the browser's own first tab does not count
        self._call("POST", self._session + "/url", {"url": url})

    def cdp(self, command, **parameters):
        """A command of the browser's own protocol."""
        return self._call("POST", self._session + "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def run(self, script, *arguments):
        """The value of a script's `return`."""
        return self._call(
            "POST", self._session + "/execute/sync", {"script": script, "args": list(arguments)}
        )

    def errors(self):
        """What the console said since it was last asked."""
        return self._call("POST", self._session + "/se/log", {"type": "browser"})

    def requests(self):
        """Addresses asked for since it was last asked."""
        entries = self._call("POST", self._session + "/se/log", {"type": "performance"})
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]

    def close(self):
        """End the session and the driver."""
        try:
            self._call("DELETE", self._session)
        finally:
            self._process.terminate()
            self._process.wait(timeout=20)

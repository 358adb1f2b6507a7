"""Debian's Chromium, headless, driven by Selenium."""

import json
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
_ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip


class Browser:
    """A browser with one page. `errors` and `requests` are the entries of its console and network logs."""

    def __init__(self, profile: Path):
        for program in (CHROMIUM, DRIVER):
            assert Path(program).exists(), f"{program} is missing: apt-get install chromium chromium-driver"
        options = ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in (*_ARGUMENTS, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        # Both paths are given, so Selenium Manager has nothing to look for or to download.
        self._driver = Chrome(options=options, service=Service(DRIVER))

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
        # headless Chromium 150 focuses no window by itself
        self.cdp("Emulation.setFocusEmulationEnabled", enabled=True)
        self._driver.get("about:blank")
        self.errors(), self.requests()  # the browser's own first tab does not count
        self._driver.get(url)

    def cdp(self, command, **parameters):
        """Execute a command of the Chrome DevTools Protocol."""
        return self._driver.execute_cdp_cmd(command, parameters)

    def run(self, script, *arguments):
        """The value of a script's `return`."""
        return self._driver.execute_script(script, *arguments)

    def errors(self):
        """Console entries since the last call."""
        return self._driver.get_log("browser")

    def requests(self):
        """Addresses requested since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self._driver.get_log("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]

    def close(self):
        """End the session and the driver."""
        self._driver.quit()

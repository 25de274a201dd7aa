"""A real browser for tests of pages: a headless Chromium over the WebDriver protocol."""

import base64
import shutil
import subprocess
import time
from pathlib import Path

import httpx2

from tests.made import processes

DRIVER = shutil.which("chromedriver")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """A headless Chromium over the WebDriver protocol."""

    def __init__(self, folder: Path):
        self.driver = processes.start([DRIVER, "--port=0"], stderr=subprocess.DEVNULL)
        for line in self.driver.stdout:
            if "started successfully on port" in line:
                address = f"http://127.0.0.1:{line.strip().rstrip('.').rpartition(' ')[2]}"
                break
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={folder}",
            "--window-size=1200,800",
        ]
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": flags, "binary": BROWSER},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        self.http = httpx2.Client(base_url=address, timeout=60)
        self.session = "/session/" + self.call("POST", "/session", capabilities={"alwaysMatch": wanted})["sessionId"]

    def call(self, method: str, path: str, **body) -> object:
        answer = self.http.request(method, path, json=body if method == "POST" else None).json()["value"]
        assert not (isinstance(answer, dict) and "error" in answer), answer
        return answer

    def width(self, pixels: int, height: int = 800) -> None:
        """Of what is seen; a window cannot be narrower than 500, a phone's screen can."""
        screen = {"width": pixels, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("POST", self.session + "/goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride", params=screen)

    def open(self, url: str) -> None:
        self.console()  # what is told from here on is of this page
        self.call("POST", self.session + "/url", url=url)

    def js(self, script: str) -> object:
        return self.call("POST", self.session + "/execute/sync", script=f"return {script}", args=[])

    def find(self, css: str) -> str:
        found = self.call("POST", self.session + "/element", using="css selector", value=css)
        return f"{self.session}/element/{next(iter(found.values()))}"

    def click(self, css: str) -> None:
        self.call("POST", self.find(css) + "/click")

    def type(self, css: str, text: str) -> None:
        self.call("POST", self.find(css) + "/value", text=text)

    def wait(self, script: str) -> None:
        end = time.monotonic() + 60
        while not self.js(script):
            assert time.monotonic() < end, (script, self.js("document.body.innerText"))
            time.sleep(0.05)

    def console(self) -> list[str]:
        return [entry["message"] for entry in self.call("POST", self.session + "/se/log", type="browser")]

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("GET", self.session + "/screenshot")))

    def close(self) -> None:
        self.http.delete(self.session)
        self.driver.terminate()
        self.driver.wait(processes.SECONDS)

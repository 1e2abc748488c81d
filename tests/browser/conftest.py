"""A real platform in a process of its own and real Chromium windows on it.

``PAGE_SCREENSHOTS`` names a folder for pictures; without it none are taken.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
PATIENCE = 20.0
WINDOWS = 3
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--force-color-profile=srgb",
    "--lang=en-GB",
)


def wait(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Poll until ``condition`` gives something true, and return it."""
    from selenium.common.exceptions import StaleElementReferenceException

    until = time.monotonic() + seconds
    while True:
        try:
            value = condition()
        except StaleElementReferenceException:  # drawn anew between two looks
            value = None
        if value:
            return value
        assert time.monotonic() < until, f"it never came true within {seconds:g} s: {what}"
        time.sleep(0.05)


class Platform:
    """``chatcluster dev`` as a process. Its port stays the same over restarts, as behind a load balancer."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._process: subprocess.Popen[str] | None = None
        self.port = 0
        self.log = data.with_suffix(".log")

    def start(self) -> None:
        listen = ("--listen", f"127.0.0.1:{self.port}", "--management", "127.0.0.1:0")
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "chatcluster", "dev", *listen, "--data", str(self._data)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        said = []
        for line in self._process.stdout:
            said.append(line)
            found = re.search(r"page\s+http://127\.0\.0\.1:(\d+)/", line)
            if found:
                self.port = int(found[1])
            if "to leave" in line:
                break
        else:
            self.kill()
            pytest.fail(f"it did not start: {''.join(said)}{self.log.read_text()}")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def kill(self) -> None:
        """No goodbye."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """The polite way."""
        if self._process is not None:
            self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None


class Window:
    """One person's browser window on the page, with the verbs that the tests speak in."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.url = ""
        self.excused: list[str] = []

    # -- going somewhere --------------------------------------------------------------------------------

    def go(self, url: str) -> None:
        self.driver.get(url)

    def enter(self, url: str, user: str) -> Window:
        """As a new device of ``user``."""
        self.go(url + "icon.svg")
        self.run("sessionStorage.clear()")
        self.url = f"{url}?user={user}"
        self.go(self.url)
        wait(lambda: self.text("#me-state") == "online", f"{user} is connected")
        return self

    def open(self, title: str) -> None:
        wait(lambda: self.room(title), f"{title} is listed")

        def opened() -> bool:
            self.run("arguments[0].click()", self.room(title))
            return self.text("#title") == title

        wait(opened, f"{title} is open")

    def tab(self, handle: str) -> None:
        """Look at another tab of this window."""
        self.driver.switch_to.window(handle)
        self.driver.execute_cdp_cmd("Page.bringToFront", {})

    def room(self, title: str) -> Any:
        script = """return [...document.querySelectorAll('.room')]
                    .find((one) => one.querySelector('.room-title').textContent === arguments[0])"""
        return self.run(script, title)

    # -- looking ------------------------------------------------------------------------------------------

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def all(self, css: str) -> list[Any]:
        return self.driver.find_elements("css selector", css)

    def one(self, css: str) -> Any:
        return self.driver.find_element("css selector", css)

    def text(self, css: str) -> str:
        return self.run("return document.querySelector(arguments[0])?.textContent.trim() ?? ''", css)

    def part(self, body: str, css: str) -> str:
        """Text of a part of the newest message with this body."""
        script = """return [...document.querySelectorAll('#log .msg')].reverse()
                    .find((one) => one.querySelector('.body').textContent === arguments[0])
                    ?.querySelector(arguments[1])?.textContent ?? ''"""
        return self.run(script, body, css)

    def bodies(self) -> list[str]:
        """The bodies shown in the open conversation, top to bottom."""
        return self.run("return [...document.querySelectorAll('#log .msg .body')].map((one) => one.textContent)")

    def message(self, body: str) -> Any:
        """The element of the newest message with this body."""
        script = """return [...document.querySelectorAll('#log .msg')].reverse()
                    .find((one) => one.querySelector('.body').textContent === arguments[0])"""
        return self.run(script, body)

    def wait_for(self, body: str) -> Any:
        return wait(lambda: self.message(body), f"{body!r} is shown")

    def state(self, body: str) -> str:
        """queued, sending, retrying, failed, pending or durable."""
        names = ("queued", "sending", "retrying", "failed", "pending", "durable")
        script = """return [...document.querySelectorAll('#log .msg')].reverse()
                    .find((one) => one.querySelector('.body').textContent === arguments[0])?.className ?? ''"""
        classes = self.run(script, body).split()
        return next((name for name in names if name in classes), "")

    def durable(self, body: str, seconds: float = PATIENCE) -> None:
        wait(lambda: self.state(body) == "durable", f"{body!r} is durable", seconds)

    def unread(self, title: str) -> int:
        script = """return [...document.querySelectorAll('.room')]
                    .find((one) => one.querySelector('.room-title').textContent === arguments[0])
                    ?.querySelector('.badge')?.textContent ?? '0'"""
        return int(self.run(script, title))

    # -- doing ----------------------------------------------------------------------------------------------

    def keys(self, *keys: str) -> None:
        """Press keys wherever the focus is."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def chord(self, modifier: str, key: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).key_down(modifier).send_keys(key).key_up(modifier).perform()

    def write(self, text: str) -> None:
        self.one("#input").send_keys(text)

    def send(self, text: str) -> None:
        from selenium.webdriver import Keys

        self.one("#input").send_keys(text, Keys.ENTER)

    def act(self, body: str, tool: str) -> None:
        """Press a button of a message's toolbar."""
        from selenium.webdriver import ActionChains

        def pressed() -> bool:
            element = self.wait_for(body)
            self.run("arguments[0].scrollIntoView({block: 'center'})", element)
            ActionChains(self.driver).move_to_element(element.find_element("css selector", ".bubble")).perform()
            found = element.find_elements("css selector", f".tools .{tool}")
            if found:
                found[0].click()
            return bool(found)

        wait(pressed, f"the toolbar of {body!r}")

    def picture(self, name: str) -> None:
        folder = os.environ.get("PAGE_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.driver.save_screenshot(str(Path(folder) / f"{name}.png"))

    def shape(self, width: int, height: int, *, dark: bool = False, mobile: bool = False, scale: float = 1.0) -> None:
        cdp = self.driver.execute_cdp_cmd
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile}
        cdp("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        cdp("Emulation.setEmulatedMedia", {"features": [scheme, {"name": "prefers-reduced-motion", "value": "reduce"}]})

    def complaints(self) -> list[str]:
        """What the console said that nobody expected."""
        said = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
        return [line for line in said if not any(excuse in line for excuse in self.excused)]


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no Chromium with chromedriver here")
    platform = Platform(tmp_path_factory.mktemp("platform") / "data")
    platform.start()
    yield platform
    platform.stop()


@pytest.fixture(scope="session")
def drivers(platform: Platform) -> Iterator[list[Any]]:
    from selenium import webdriver

    made = []
    try:
        for _ in range(WINDOWS):
            options = webdriver.ChromeOptions()
            options.binary_location = CHROMIUM
            for flag in _FLAGS:
                options.add_argument(flag)
            options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
            made.append(webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER)))
        yield made
    finally:
        for driver in made:
            driver.quit()


@pytest.fixture
def window(platform: Platform, drivers: list[Any]) -> Iterator[Callable[[str], Window]]:
    """``window("ada")``: a window of its own in which Ada is signed in, as a new device."""
    used: list[Window] = []

    def make(user: str) -> Window:
        made = Window(drivers[len(used)])
        made.shape(1180, 780)
        used.append(made)
        return made.enter(platform.url, user)

    yield make
    complaints = [line for one in used for line in one.complaints()]
    for one in used:
        one.go("about:blank")
    assert not complaints


@pytest.fixture(name="wait")
def wait_fixture() -> Callable[..., Any]:
    """``wait(condition, what, seconds)``."""
    return wait

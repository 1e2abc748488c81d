"""What the page looks like and says to everybody: names and roles, contrast, small windows, light and dark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.slow

NAMELESS = """
const shown = (one) => one.checkVisibility();
const name = (one) => (one.getAttribute('aria-label') || one.textContent || one.title || '').trim()
  || [...(one.labels ?? [])].map((label) => label.textContent).join('').trim();
return [...document.querySelectorAll('button, a[href], input, textarea, [role=log], [role=toolbar], dialog[open]')]
  .filter(shown).filter((one) => !name(one) && !one.getAttribute('aria-labelledby'))
  .map((one) => one.outerHTML.slice(0, 200));
"""

DOUBLE = """
const ids = [...document.querySelectorAll('[id]')].map((one) => one.id);
return ids.filter((id, at) => ids.indexOf(id) !== at);
"""

# Text whose contrast with what lies behind it is under 4.5 (3 for large text); disabled things are exempt.
FAINT = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const rgba = (css) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = css; canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255]; };
const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3]));
function behind(one) {
  if (!one) return [255, 255, 255];
  const back = rgba(getComputedStyle(one).backgroundColor);
  return back[3] === 1 ? back.slice(0, 3) : over(back, behind(one.parentElement));
}
const light = (rgb) => rgb.map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const found = [];
for (const one of document.querySelectorAll('body *')) {
  const text = [...one.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data).join('').trim();
  if (!text || !one.checkVisibility() || one.closest(':disabled, noscript, [aria-disabled]')) continue;
  const style = getComputedStyle(one);
  const back = behind(one);
  const [a, b] = [light(over(rgba(style.color), back)), light(back)].sort((x, y) => y - x);
  const size = parseFloat(style.fontSize);
  const least = size >= 24 || (size >= 18.5 && style.fontWeight >= 700) ? 3 : 4.5;
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < least) found.push(`${one.className || one.tagName} "${text.slice(0, 30)}" ${ratio.toFixed(2)}`);
}
return found;
"""


def check(page: Any) -> None:
    assert page.run(NAMELESS) == []
    assert page.run(DOUBLE) == []
    assert page.run(FAINT) == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_names_roles_and_contrast(window: Callable[[str], Any], wait: Any, dark: bool) -> None:
    ada, grace = window("ada"), window("grace")
    ada.shape(1280, 820, dark=dark, scale=1.5)
    grace.open("Ada Lovelace")
    ada.open("Grace Hopper")
    grace.send("Shall we look at the engine?")
    ada.wait_for("Shall we look at the engine?")
    check(ada)
    for role in (
        "nav[aria-label]",
        "main",
        "#log[role=log][aria-live]",
        "#banner-text[role=status]",
        "html[lang]",
        "h1",
    ):
        assert ada.all(role), role
    ada.open("Lounge")
    ada.picture(f"page-{'dark' if dark else 'light'}")
    check(ada)
    ada.one("#details").click()
    wait(lambda: ada.all("#details-members li"), "the members are listed")
    ada.picture(f"details-{'dark' if dark else 'light'}")
    check(ada)


def test_who_are_you(window: Callable[[str], Any], platform: Any, wait: Any) -> None:
    somebody = window("ada")
    somebody.go(platform.url)
    wait(lambda: somebody.all(".person"), "people to be")
    somebody.picture("who")
    check(somebody)
    assert somebody.text("h1") == "Who are you?"


@pytest.mark.parametrize("width", [360, 412, 720])
def test_small_windows(window: Callable[[str], Any], width: int) -> None:
    ada = window("ada")
    ada.shape(width, 740, mobile=width < 700, scale=2)
    ada.go(ada.url)
    overflows = "return document.documentElement.scrollWidth > innerWidth"
    ada.picture(f"list-{width}")
    assert not ada.run(overflows)
    ada.open("Lounge")
    ada.wait_for("Kill the server while you type. Nothing that was ticked will be gone.")
    ada.picture(f"chat-{width}")
    assert not ada.run(overflows)
    assert ada.one("#input").is_displayed()
    assert not ada.one("#rooms").is_displayed()
    check(ada)
    ada.one("#back").click()
    assert ada.one("#rooms").is_displayed()


def test_nothing_is_fetched_from_elsewhere(window: Callable[[str], Any], platform: Any) -> None:
    ada = window("ada")
    ada.open("Lounge")
    fetched = ada.run("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert fetched
    assert [url for url in fetched if not url.startswith(platform.url)] == []
    assert ada.run("return document.querySelectorAll('[style]').length") <= 1  # the growing field alone

"""People chat on the page: two and more windows against a running platform."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

Keys = pytest.importorskip("selenium.webdriver").Keys

pytestmark = pytest.mark.slow
GRACE, ADA = "Grace Hopper", "Ada Lovelace"


def fresh(text: str) -> str:
    """A body that no other run has sent."""
    return f"{text} {uuid4().hex[:8]}"


def press(element: Any) -> bool:
    element.click()
    return True


def test_two_people_chat_live(window: Callable[[str], Any], wait: Any) -> None:
    ada, grace = window("ada"), window("grace")
    ada.open(GRACE)
    grace.open(ADA)
    hello, answer = fresh("Hello Grace"), fresh("Hello Ada")
    ada.send(hello)
    grace.wait_for(hello)
    wait(lambda: ada.part(hello, ".seen") == "Seen", "Ada sees that Grace has seen it")
    grace.send(answer)
    ada.wait_for(answer)
    ada.durable(hello)
    grace.durable(hello)
    grace.durable(answer)
    assert ada.bodies()[-2:] == [hello, answer]


def test_two_tabs_are_two_devices_and_read_marks_follow(window: Callable[[str], Any], wait: Any) -> None:
    ada, grace = window("ada"), window("grace")
    first = ada.driver.current_window_handle
    ada.open("Lounge")
    ada.driver.switch_to.new_window("tab")
    ada.go(ada.url)
    wait(lambda: ada.text("#me-state") == "online", "the second tab is connected")
    second = ada.driver.current_window_handle
    device = ada.run("return sessionStorage.getItem('chatcluster:device')")
    ada.open("Lounge")
    grace.open(ADA)
    before = ada.unread(GRACE)
    grace.send(fresh("For both tabs"))
    wait(lambda: ada.unread(GRACE) == before + 1, "the second tab counts it")
    ada.tab(first)
    assert ada.run("return sessionStorage.getItem('chatcluster:device')") != device
    wait(lambda: ada.unread(GRACE) == before + 1, "the first tab counts it")
    ada.tab(second)
    ada.open(GRACE)
    assert ada.text("#log .fresh") == "New", "a line where the new ones begin"
    ada.tab(first)
    wait(lambda: ada.unread(GRACE) == 0, "what one tab reads is read in the other")
    ada.tab(second)
    ada.driver.close()
    ada.tab(first)


def test_typing_and_presence(window: Callable[[str], Any], wait: Any) -> None:
    ada, grace = window("ada"), window("grace")
    ada.open(GRACE)
    grace.open(ADA)
    wait(lambda: ada.text("#subtitle") == "online", "Ada sees Grace online")

    def typing() -> bool:
        grace.write("Let me think ")  # the hint lasts for seconds: a busy machine may look too late
        return bool(ada.text("#typing") == "Grace is typing…")

    wait(typing, "Ada sees that Grace types")
    wait(lambda: ada.text("#typing") == "", "the hint goes away by itself")
    grace.go("about:blank")
    wait(lambda: ada.text("#subtitle").startswith("last seen"), "Ada sees Grace leave", 90)


def test_edit_react_reply_delete(window: Callable[[str], Any], wait: Any) -> None:
    ada, grace = window("ada"), window("grace")
    ada.open(GRACE)
    grace.open(ADA)
    typo, right = fresh("Teh engine"), fresh("The engine")
    ada.send(typo)
    grace.wait_for(typo)
    ada.durable(typo)
    ada.one("#input").send_keys(Keys.ARROW_UP)
    assert ada.one("#input").get_property("value") == typo
    ada.one("#input").clear()
    ada.send(right)
    grace.wait_for(right)
    assert typo not in grace.bodies()
    assert "edited" in grace.part(right, ".meta")

    grace.act(right, "smile")
    grace.one(".picker button").click()
    chip = wait(lambda: ada.part(right, ".chip"), "Ada sees the reaction")
    assert chip == "👍1"
    wait(lambda: press(ada.message(right).find_element("css selector", ".chip")), "she presses it too")
    wait(lambda: grace.part(right, ".chip") == "👍2", "Grace sees two")

    answer = fresh("It runs")
    grace.act(right, "reply")
    grace.send(answer)
    ada.wait_for(answer)
    wait(lambda: ada.part(answer, ".quote-text") == right, "the answer quotes its question")

    ada.act(right, "trash")
    ada.one(".tools .trash.sure").click()
    wait(lambda: right not in grace.bodies(), "it is deleted for Grace")
    wait(lambda: ada.part(answer, ".quote-text") == "Message deleted", "the quote does not keep it")


def test_a_huge_channel_is_followed_live(window: Callable[[str], Any], wait: Any) -> None:
    edsger, grace = window("edsger"), window("grace")
    wait(lambda: edsger.room("Town square"), "the huge channel is listed", 60)
    edsger.open("Town square")
    grace.open("Town square")
    wait(lambda: grace.text("#subtitle") == "10,000 members", "it is huge", 60)
    body = fresh("Hear ye")
    edsger.send(body)
    grace.wait_for(body)
    grace.durable(body)
    assert grace.bodies().count(body) == 1
    grace.one("#details").click()
    wait(lambda: "timeline of its own" in grace.text("#details-count"), "it is told that it is large", 60)


def test_a_new_group_and_a_new_direct_conversation(window: Callable[[str], Any], wait: Any) -> None:
    ada, alan = window("ada"), window("alan")
    name = fresh("<b>Engine</b>")
    ada.one("#new").click()
    for user in ("alan", "grace"):
        ada.one(f"#new-people input[value={user}]").click()
    ada.one("#new-name").send_keys(name, Keys.ENTER)
    wait(lambda: ada.text("#title") == name, "the group is open")
    body = fresh("First words")
    ada.send(body)
    wait(lambda: alan.room(name), "Alan is in it")
    alan.open(name)
    alan.wait_for(body)
    assert alan.text("#subtitle").startswith("3 members")

    alan.one("#new").click()
    alan.one("#new-people input[value=ada]").click()
    alan.one("#new-create").click()
    wait(lambda: alan.text("#title") == ADA, "the conversation is open")
    direct = fresh("Only for you")
    alan.send(direct)
    ada.open("Alan Turing")
    ada.wait_for(direct)


def test_a_killed_server(window: Callable[[str], Any], platform: Any, wait: Any) -> None:
    ada, grace = window("ada"), window("grace")
    for one in (ada, grace):
        one.excused += ["WebSocket connection to", "net::ERR_CONNECTION_REFUSED"]
    ada.open(GRACE)
    grace.open(ADA)
    before, during = fresh("Before"), fresh("While it was down")
    ada.send(before)
    ada.durable(before)
    platform.kill()
    wait(lambda: "connection is lost" in ada.text("#banner"), "the banner says so")
    wait(lambda: "Reconnecting" in ada.text("#banner") or "Connecting" in ada.text("#banner"), "and what comes next")
    ada.send(during)
    assert ada.state(during) in ("queued", "retrying")
    wait(lambda: "1 message waits" in ada.text("#banner") or not ada.one("#banner").is_displayed(), "it is counted", 70)
    platform.start()
    ada.durable(during, 90)
    wait(lambda: grace.message(during), "Grace gets it", 90)
    wait(lambda: ada.text("#me-state") == "online", "Ada is back")
    for one in (ada, grace):
        assert one.bodies().count(during) == 1
        assert one.bodies().count(before) == 1
    grace.enter(platform.url, "grace").open(ADA)
    grace.wait_for(during)
    assert grace.bodies().count(during) == 1


def test_a_reload_continues_where_it_was(window: Callable[[str], Any], wait: Any) -> None:
    ada, grace = window("ada"), window("grace")
    ada.open(GRACE)
    grace.open(ADA)
    first, missed, draft = fresh("First"), fresh("Sent while she reloads"), fresh("Half a thought")
    grace.send(first)
    ada.durable(first)
    ada.write(draft)
    url = ada.driver.current_url
    ada.go("about:blank")
    grace.send(missed)
    grace.durable(missed)
    ada.go(url)
    wait(lambda: ada.text("#me-state") == "online", "she is back")
    ada.open(GRACE)
    ada.wait_for(missed)
    assert ada.bodies().count(first) == 1
    assert ada.bodies().count(missed) == 1
    assert ada.one("#input").get_property("value") == draft
    ada.one("#input").clear()


def test_markup_is_shown_as_text(window: Callable[[str], Any], wait: Any) -> None:
    ada, grace = window("ada"), window("grace")
    ada.open(GRACE)
    grace.open(ADA)
    body = fresh("<img src=x onerror=window.broken=1><script>window.broken=1</script> javascript:alert(1) &amp;")
    ada.send(body)
    grace.wait_for(body)
    for one in (ada, grace):
        assert one.run("return window.broken") is None
        assert one.all("#log img, #log script, #log a[href^='javascript']") == []


def test_old_messages_come_while_scrolling_up(window: Callable[[str], Any], wait: Any) -> None:
    ada = window("ada")
    ada.one("#new").click()
    ada.one("#new-people input[value=alan]").click()
    ada.one("#new-people input[value=grace]").click()
    name = fresh("Long talk")
    ada.one("#new-name").send_keys(name, Keys.ENTER)
    wait(lambda: ada.text("#title") == name, "the group is open")
    for number in range(8):
        ada.one("#input").send_keys(f"line {number}", Keys.ENTER)
    # 150 more, as fast as the page lets them go.
    ada.run(
        """const input = document.getElementById("input");
           for (let n = 8; n < 158; n++) {
             input.value = `line ${n}`;
             input.dispatchEvent(new Event("input"));
             document.getElementById("composer").requestSubmit();
           }"""
    )
    ada.durable("line 157", 60)
    ada.go(ada.driver.current_url)
    ada.run("sessionStorage.removeItem('chatcluster:ada:state')")
    ada.enter(ada.url.partition("?")[0], "ada").open(name)
    ada.wait_for("line 157")
    assert "line 0" not in ada.bodies()

    def up() -> bool:
        ada.run("document.getElementById('log').scrollTop = 0")
        return ada.bodies()[:1] == ["line 0"]

    wait(up, "the first message is reached")
    assert ada.bodies() == [f"line {number}" for number in range(158)]
    assert "beginning" in ada.text("#log .start")
    ada.one("#jump").click()
    wait(
        lambda: ada.run(
            "const l = document.getElementById('log'); return l.scrollHeight - l.scrollTop - l.clientHeight < 5"
        ),
        "back at the end",
    )


def test_everything_by_keyboard(window: Callable[[str], Any], platform: Any, wait: Any) -> None:
    ada = window("ada")
    ada.go(platform.url)
    wait(lambda: ada.run("return document.activeElement.dataset.user") == "ada", "the first person has the focus")
    ada.keys(Keys.ENTER)
    wait(lambda: ada.text("#me-state") == "online", "signed in")
    wait(lambda: ada.room("Lounge"), "the list is there")
    ada.chord(Keys.CONTROL, "k")
    ada.keys("lounge", Keys.ENTER)
    wait(lambda: ada.text("#title") == "Lounge", "found and opened")
    ada.keys(Keys.ESCAPE)
    body = fresh("No mouse")
    assert ada.run("return document.activeElement.id") == "input"
    ada.keys(body, Keys.ENTER)
    ada.durable(body)
    ada.keys(Keys.ARROW_UP, " at all", Keys.ENTER)
    ada.wait_for(f"{body} at all")
    ada.durable(f"{body} at all")
    ada.keys(Keys.PAGE_UP)
    assert ada.run("return document.activeElement.classList.contains('msg')")
    ada.keys(Keys.TAB)
    assert ada.run("return document.activeElement.getAttribute('aria-label')") == "React"
    ada.keys(Keys.ENTER)
    ada.keys(Keys.ARROW_RIGHT)
    ada.keys(Keys.ENTER)
    wait(lambda: ada.part(f"{body} at all", ".chip") == "❤️1", "reacted")
    ada.keys(Keys.ESCAPE)
    title = ada.text("#title")
    ada.chord(Keys.ALT, Keys.ARROW_DOWN)
    wait(lambda: ada.text("#title") not in ("", title), "another conversation")
    ada.chord(Keys.ALT, Keys.ARROW_UP)
    wait(lambda: ada.text("#title") == title, "and back")
    outline = ada.run(
        "document.querySelector('#new').focus(); return getComputedStyle(document.activeElement).outlineStyle"
    )
    assert outline == "solid", "the focus can be seen"

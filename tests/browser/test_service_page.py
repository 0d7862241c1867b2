"""The page of the service: people put histories together and see who gets depth."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import pytest

from skiprec.inference import Recommender
from tests.testkit.browser import opened, violations
from tests.testkit.exports import IDS, export_small_model
from tests.testkit.service import serving

NAMES = [f"Name of {item}" if place % 2 else None for place, item in enumerate(IDS)]
NUM_BLOCKS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "model"
    export_small_model(folder, kind="cost", num_blocks=NUM_BLOCKS, names=NAMES)
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with serving(folder) as (_, address):
        yield address


def with_users(address: str, *histories: list[str], keep: float | None = None) -> str:
    users = [
        ("user", " ".join(map(quote, (f"User {place}", *history))))
        for place, history in enumerate(histories)
    ]
    return f"{address}/#{urlencode(users + ([] if keep is None else [('keep', keep)]))}"


def card(page: Any, name: str) -> Any:
    return page.get_by_role("region", name=name)


def listed(page: Any, name: str, title: str) -> list[str]:
    """The items under a title of a user's card, once they are there."""
    items = card(page, name).locator(f"h3:has-text('{title}') + ol li .name")
    items.first.wait_for()
    return [" ".join(text.split()) for text in items.all_inner_texts()]


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def shown_as(item: str) -> str:
    name = NAMES[IDS.index(item)]
    return item if name is None else f"{name} {item}"


@pytest.mark.parametrize("width", ["desktop", "phone"])
def test_a_history_is_put_together_with_the_keyboard_alone(
    chromium: Any, address: str, folder: Path, width: str
) -> None:
    with opened(chromium, address, width) as watched:
        page = watched.page
        card(page, "User A").wait_for()
        for _ in range(10):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.getAttribute('role')") == "combobox":
                break
        for query, chosen in (("name 2", IDS[1]), (IDS[6], IDS[6])):
            page.keyboard.type(query)
            page.get_by_role("option").first.wait_for()
            page.wait_for_function(
                "text => document.querySelector('[role=option]').textContent.includes(text)",
                arg=chosen,
            )
            page.keyboard.press("ArrowDown")
            page.keyboard.press("Enter")
        page.get_by_text("Blocks that ran:").wait_for()
        assert listed(page, "User A", "History") == [shown_as(IDS[1]), shown_as(IDS[6])]
        (answer,) = Recommender.load(folder).recommend([[IDS[1], IDS[6]]], k=8)
        wanted = [shown_as(item) for item in answer.items]
        eventually(lambda: listed(page, "User A", "Recommended") == wanted)
        watched.assert_clean()


def test_the_knob_turns_the_share_of_blocks_and_the_strip_shows_which_ran(
    chromium: Any, address: str, folder: Path
) -> None:
    recommender = Recommender.load(folder)
    histories = [[IDS[1], IDS[6]], [IDS[9], IDS[2], IDS[2]]]
    with opened(chromium, with_users(address, *histories)) as watched:
        page = watched.page
        knob = page.get_by_role("slider", name="Share of blocks")
        for place, point in enumerate([None, *recommender.spec.curve]):
            if place:
                knob.press("ArrowRight")
            keep = None if point is None else point.keep
            rows = recommender.recommend(histories, keep=keep, explain=True)
            for number, row in enumerate(rows):
                count = len(row.kept_blocks or ())
                strip = card(page, f"User {number}").get_by_role("img")
                page.wait_for_function(
                    "([place, count]) => document.querySelectorAll('.card')[place]"
                    "?.querySelectorAll('.ran').length === count",
                    arg=[number, count],
                )
                label = strip.get_attribute("aria-label")
                assert label.startswith(f"{count} of {NUM_BLOCKS} blocks ran")
            if point is not None:
                assert f"{point.mrr_at_20:.4f}".lstrip("0") in knob.get_attribute("aria-valuetext")
                assert f"keep={keep:g}"[:8] in page.url
        watched.assert_clean()


def test_times_of_parts_stand_beside_those_of_all_blocks(chromium: Any, address: str) -> None:
    with opened(chromium, with_users(address, [IDS[1]], keep=0.0)) as watched:
        table = watched.page.get_by_role("table", name="Time of each part")
        table.wait_for()
        rows = table.get_by_role("row").all_inner_texts()
        assert [row.split("\n")[0].strip().split("\t")[0] for row in rows] == [
            "this share",
            "all blocks",
        ]
        for row in rows:
            for part in ("policy", "blocks", "head"):
                assert f"{part} 0." in row
        # The longer bar fills its cell, and each bar is filled by its parts.
        widths = watched.page.evaluate(
            "[...document.querySelectorAll('.time-bar')].map(bar => [bar.clientWidth, "
            "bar.parentElement.clientWidth, [...bar.children].reduce("
            "(sum, part) => sum + part.getBoundingClientRect().width, 0)])"
        )
        assert len(widths) == 2
        for bar, _, parts in widths:
            assert abs(bar - parts) <= 1
        assert any(abs(bar - cell) <= 4 for bar, cell, _ in widths)
        watched.assert_clean()


def test_users_come_and_go_and_a_reload_keeps_them(chromium: Any, address: str) -> None:
    with opened(chromium, with_users(address, [IDS[1], "unheard of"])) as watched:
        page = watched.page
        page.get_by_text("Unknown to the model: unheard of.").wait_for()
        page.get_by_role("button", name="Add a user").click()
        card(page, "User A").get_by_role("button", name="Some frequent items").click()
        assert len(listed(page, "User A", "History")) == 6
        card(page, "User 0").get_by_role("button", name="Remove unheard of").click()
        listed(page, "User 0", "Recommended")
        before = listed(page, "User A", "History")
        page.reload()
        card(page, "User A").wait_for()
        assert [title.strip() for title in page.locator(".card h2").all_inner_texts()] == [
            "User 0",
            "User A",
        ]
        assert listed(page, "User 0", "History") == [shown_as(IDS[1])]
        ids = [text.split()[-1] for text in before]
        assert [text.split()[-1] for text in listed(page, "User A", "History")] == ids
        page.get_by_role("button", name="Remove User 0").click()
        assert page.locator(".card").count() == 1
        card(page, "User A").get_by_role("button", name="Remove User A").click()
        assert page.locator(".card").count() == 0
        watched.assert_clean()


def test_a_recommended_item_is_added_and_an_empty_history_gets_popularity(
    chromium: Any, address: str
) -> None:
    with opened(chromium, address) as watched:
        page = watched.page
        page.get_by_text("The most frequent items; no block ran").wait_for()
        first = listed(page, "User A", "Recommended")[0]
        card(page, "User A").get_by_role("button", name="Add to the history:").first.click()
        page.get_by_text("Blocks that ran:").wait_for()
        assert listed(page, "User A", "History") == [first]
        assert first not in listed(page, "User A", "Recommended")
        watched.assert_clean()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", ["desktop", "phone"])
def test_contrast_labels_and_roles(chromium: Any, address: str, width: str, scheme: str) -> None:
    with opened(chromium, with_users(address, [IDS[1]], []), width, scheme) as watched:
        page = watched.page
        page.get_by_text("Blocks that ran:").wait_for()
        assert violations(page) == []
        page.locator("[role=combobox]").first.press("ArrowDown")
        page.get_by_role("option").first.wait_for()
        page.keyboard.press("ArrowDown")
        assert violations(page) == []
        # The control: a field without a label and text that can hardly be seen are found.
        page.evaluate("document.querySelector('.search label').remove()")
        page.evaluate("document.querySelector('#model').style.color = 'rgb(128 128 128 / 0.4)'")
        found = " ".join(violations(page))
        assert "color-contrast" in found
        assert "label" in found or "aria-input-field-name" in found
        watched.assert_clean()


def test_a_service_that_is_gone_is_told_and_the_page_goes_on(folder: Path, chromium: Any) -> None:
    with serving(folder) as (_, address), opened(chromium, address) as watched:
        page = watched.page
        page.get_by_text("The most frequent items; no block ran").wait_for()
        page.route("**/v1/recommend", lambda route: route.fulfill(status=429, body="{}"))
        card(page, "User A").get_by_role("button", name="Add to the history:").first.click()
        page.get_by_role("alert").filter(has_text="did not answer as expected").wait_for()
        page.unroute("**/v1/recommend")
        card(page, "User A").get_by_role("button", name="Add to the history:").first.click()
        page.get_by_text("Blocks that ran:").wait_for()
        assert not page.get_by_role("alert").is_visible()


def test_names_are_never_read_as_html(tmp_path: Path, chromium: Any) -> None:
    bad = "<img src=x onerror=document.title='broken'>"
    export_small_model(tmp_path / "model", names=[bad] * len(IDS))
    with serving(tmp_path / "model") as (_, address), opened(chromium, address) as watched:
        page = watched.page
        page.get_by_text("The most frequent items; no block ran").wait_for()
        assert listed(page, "User A", "Recommended")[0].startswith(bad)
        assert page.title() != "broken"
        watched.assert_clean()


def test_a_model_without_a_curve_has_no_knob(tmp_path: Path, chromium: Any) -> None:
    export_small_model(tmp_path / "model", kind="none")
    with serving(tmp_path / "model") as (_, address):
        with opened(chromium, with_users(address, [IDS[1]], keep=0.5)) as watched:
            page = watched.page
            page.get_by_text("Blocks that ran: 4 of 4").wait_for()
            assert not page.get_by_role("slider").is_visible()
            assert page.get_by_text("has neither a learned policy nor exits").is_visible()
            watched.assert_clean()


def answer_of(**ms: float) -> str:
    """A made-up answer, with known times."""
    one = {"items": [], "scores": [], "names": [], "unknown": [], "source": "model", "read": 1}
    result = one | {"kept_blocks": [0, 1], "ms": {"waiting": 0, "executor": 9, "total": 9} | ms}
    return json.dumps({"model": "given", "keep": None, "results": [result]})


def test_times_are_those_of_the_answers(chromium: Any, address: str) -> None:
    """This share asks without `keep`, all blocks ask with 1."""
    model = httpx.get(f"{address}/v1/model").json()["model"]

    def fulfill(route: Any) -> None:
        is_all = route.request.post_data_json.get("keep") == 1
        blocks = 12.0 if is_all else 3.0
        body = answer_of(policy=1.0, blocks=blocks, head=2.0).replace('"given"', json.dumps(model))
        route.fulfill(body=body, content_type="application/json")

    with opened(chromium, address) as watched:
        page = watched.page
        page.get_by_text("The most frequent items; no block ran").wait_for()
        page.route("**/v1/recommend", fulfill)
        card(page, "User A").get_by_role("button", name="Add to the history:").first.click()
        page.get_by_text("2.5 times as fast as all blocks.").wait_for()
        rows = page.get_by_role("table", name="Time of each part").get_by_role("row")
        own, every = (" ".join(text.split()) for text in rows.all_inner_texts())
        assert own == "this share policy 1.00 ms, blocks 3.00 ms, head 2.00 ms 6.00 ms"
        assert every == "all blocks policy 1.00 ms, blocks 12.00 ms, head 2.00 ms 15.00 ms"
        bars = page.locator(".time-bar").all()
        small, large = (bar.bounding_box()["width"] for bar in bars)
        assert small / large == pytest.approx(6 / 15, abs=0.02)
        watched.assert_clean()


def test_a_swap_while_the_page_is_open_is_shown(
    chromium: Any, folder: Path, tmp_path: Path
) -> None:
    """The daily loop swaps models: header, knob and strips are those of the one that answers."""
    export_small_model(tmp_path / "other", kind="none", num_blocks=3)
    with serving(folder) as (service, address):
        with opened(chromium, with_users(address, [IDS[1]], [IDS[2]], keep=0.5)) as watched:
            page = watched.page
            page.get_by_text(f"of {NUM_BLOCKS}", exact=False).first.wait_for()
            service.model.replace_by(tmp_path / "other")
            card(page, "User 0").get_by_role("button", name="Add to the history:").first.click()
            page.get_by_text("Blocks that ran: 3 of 3").first.wait_for()
            eventually(lambda: page.get_by_text("Blocks that ran: 3 of 3").count() == 2)
            assert service.model.now.name in page.locator("#model").inner_text()
            assert not page.get_by_role("slider").is_visible()
            assert not page.get_by_role("alert").is_visible()
            service.model.replace_by(folder)
            card(page, "User 1").get_by_role("button", name="Add to the history:").first.click()
            page.get_by_role("slider").wait_for()
            # The refused question is the browser's own message of a 422.
            assert all("422" in text for text in watched.errors)


def test_what_nobody_waits_for_is_not_asked(chromium: Any, address: str) -> None:
    with opened(chromium, with_users(address, [IDS[1]])) as watched:
        page, asked = watched.page, []
        page.get_by_text("Blocks that ran:").wait_for()

        def slow(route: Any) -> None:
            asked.append(route.request.post_data_json.get("keep"))
            time.sleep(0.1)
            route.continue_()

        page.route("**/v1/recommend", slow)
        knob = page.get_by_role("slider")
        last = int(knob.get_attribute("max"))
        for _ in range(last):
            knob.press("ArrowRight")
            page.wait_for_timeout(90)
        page.get_by_text(f"Blocks that ran: {NUM_BLOCKS} of {NUM_BLOCKS}").wait_for()
        page.wait_for_timeout(500)
        # Three rounds at each stop would be more; all blocks were known before.
        assert len(asked) < 2 * last + 3
        assert asked[-3:] == [1, 1, 1]


@pytest.mark.parametrize("rest", ["#user=%25E0%25A4%25A", "#user=%E0%A4%A", "#keep=none", "#user="])
def test_an_odd_address_is_told_or_passed_over(chromium: Any, address: str, rest: str) -> None:
    with opened(chromium, f"{address}/{rest}") as watched:
        page = watched.page
        eventually(
            lambda: page.get_by_role("alert").is_visible() or page.locator(".card").count() > 0
        )
        if page.get_by_role("alert").is_visible():
            assert "address" in page.get_by_role("alert").inner_text()


def test_a_search_without_a_hit_says_so(chromium: Any, address: str) -> None:
    with opened(chromium, address) as watched:
        page = watched.page
        field = page.get_by_role("combobox").first
        field.fill("no such words at all")
        page.get_by_text("No item has all of these words.").wait_for()
        field.fill("name")
        page.get_by_role("option").first.wait_for()
        assert not page.get_by_text("No item has all of these words.").is_visible()
        watched.assert_clean()

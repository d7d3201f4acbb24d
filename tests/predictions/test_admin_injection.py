"""Whatever callers, models and platforms wrote into a task, in the pages of the admin it is text."""

from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from rest_framework.test import APIClient

from tests.helpers.api import submit
from tests.helpers.factories import TaskFactory

MARK = "zqxj"
ATTACKS = [
    f'"><script>{MARK}()</script>',
    f"'><img src=x onerror={MARK}()>",
    f'" onmouseover="{MARK}()" x="',
    f"</script><script>{MARK}()</script>",
    f"</pre></textarea></title><svg onload={MARK}()>",
    f"javascript:{MARK}()",
    f"data:text/html,<script>{MARK}()</script>",
    f'https://x/{MARK}.png" onerror="{MARK}()',
    f"<div x-data=\"{MARK}()\" hx-get='/admin/{MARK}'>",
    "{{ " + MARK + " }}{% " + MARK + " %}",
    f"\u202e<!--{MARK}-->",
]
HARMLESS = {"href", "src", "title", "value", "placeholder", "alt", "content", "action", "aria-label", "data-value"}
"""Attributes in which a caller's text is only text, or an address (whose scheme is looked at)."""


class Page(HTMLParser):
    """Collects where in a page the mark could be more than text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.wrong: list[str] = []
        self.is_there = False
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        for name, value in attrs:
            if MARK in name or (MARK in (value or "") and name not in HARMLESS):
                self.wrong.append(f"<{tag} {name}={value!r}>")
            if name in ("href", "src", "action") and (value or "").strip().lower().startswith(
                ("javascript:", "data:text")
            ):
                self.wrong.append(f"<{tag} {name}={value!r}>")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        self.is_there |= MARK in data
        if MARK in data and self._inside in ("script", "style"):
            self.wrong.append(f"in <{self._inside}>: {data[:100]!r}")

    def handle_comment(self, data: str) -> None:
        if MARK in data:
            self.wrong.append(f"in a comment: {data[:100]!r}")


@pytest.fixture
def browser() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("op"))
    return client


def assert_it_is_text(browser: Client, path: str) -> Page:
    response = browser.get(path)
    assert response.status_code == 200, path
    page = Page(response.content.decode())
    assert not page.wrong, path
    return page


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_tasks_pages(browser: Client, attack: str) -> None:
    task = TaskFactory(
        status="failed",
        platform="kserve",
        model_name=attack,
        model_version=attack,
        user_id=attack,
        inputs={attack: [attack, {"x": attack}]},
        outputs={attack: [attack, f"https://x/{attack}.png", f"https://x/{attack}"]},
        error_info=attack,
        request_id=attack,
        upstream_id=attack,
        upstream_cancel=attack,
        queue_id=attack[:64],
    )
    base = "/admin/predictions/task/"
    assert assert_it_is_text(browser, base).is_there
    assert assert_it_is_text(browser, f"{base}{task.pk}/change/").is_there
    for path in (
        f"{base}{task.pk}/cancel/",
        f"{base}{task.pk}/history/",
        f"/admin/agent/try?task={task.pk}",
        "/admin/",
    ):
        assert_it_is_text(browser, path)


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_addresses(browser: Client, attack: str) -> None:
    for path, query in (
        ("/admin/predictions/task/", {"q": attack}),
        ("/admin/predictions/task/", {"user_id": attack, "model_name": attack}),
        ("/admin/agent/try", {"task": attack}),
        ("/admin/login/", {"next": attack}),
        ("/admin/search/", {"s": attack}),
        ("/admin/admin/logentry/", {"q": attack}),
    ):
        response = browser.get(path, query)
        if response.status_code == 200:
            assert not Page(response.content.decode()).wrong, path
        assert MARK not in response.headers.get("Location", "").partition("?")[0]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_jobs_pages(browser: Client, client: APIClient, work: Callable[..., Any], attack: str) -> None:
    task_id = submit(client, {"raise": "ValueError", "message": attack}, UID=attack.encode().decode("latin-1"))
    queues = "/admin/django_rq/dashboard/"
    for _ in range(2):
        for path in (queues, f"{queues}queues/0/", f"{queues}queues/0/{task_id}/", f"{queues}queues/0/finished/"):
            assert_it_is_text(browser, path)
        work()


def test_outsiders_cannot_send_operators_elsewhere_after_signing_in() -> None:
    User.objects.create_superuser("op", password="a right password")
    for elsewhere in (
        "https://evil.example",
        "//evil.example",
        "\\\\evil.example",
        "javascript:alert(1)",
        "/\t/evil.example",
    ):
        form = {"username": "op", "password": "a right password"}
        response = Client().post("/admin/login/", {**form, "next": elsewhere})
        assert response["Location"] == "/admin/", elsewhere


def test_the_parser_would_see_an_attack() -> None:
    for attack in ATTACKS[:2] + ATTACKS[3:5] + ATTACKS[8:9]:
        assert Page(f"<html><body><p>{attack}</p></body></html>").wrong, attack
    assert Page(f'<html><body><a href="javascript:{MARK}()">x</a></body></html>').wrong
    assert Page(f'<p title="{ATTACKS[2]}">').wrong

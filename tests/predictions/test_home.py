"""`GET /` for people and for programs, and the favicon."""

from collections.abc import Callable

import pytest
from django.conf import settings
from django.contrib.staticfiles import finders
from django.test import Client
from django.urls import resolve

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize("accept", [BROWSER, "*/*", "text/html", ""])
def test_people_get_a_page_with_the_version_and_links_that_lead_somewhere(accept: str) -> None:
    answer = Client().get("/", headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer["Content-Type"] == "text/html; charset=utf-8"
    page = answer.content.decode()
    assert settings.VERSION in page
    for path in ("/docs", "/openapi.json", "/admin/", "/ready", "/live"):
        assert f'href="{path}"' in page
        resolve(path)


@pytest.mark.parametrize("accept", ["application/json", "application/json, text/plain, */*"])
def test_programs_get_the_name_and_version_as_json(accept: str) -> None:
    answer = Client().get("/", headers={"Accept": accept})
    assert answer["Content-Type"] == "application/json"
    assert answer.json() == {"name": "serving-agent", "version": settings.VERSION}
    assert answer["Vary"] == "Accept"


def test_the_page_needs_no_key(configured: Callable[..., None]) -> None:
    configured(ALLOW_ANONYMOUS=False, API_KEYS=["a-key"])
    assert Client().get("/").status_code == 200


def test_the_page_does_not_link_documentation_that_is_switched_off(configured: Callable[..., None]) -> None:
    configured(API_DOCS=False)
    assert "/docs" not in Client().get("/").content.decode()


def test_only_reading_is_allowed() -> None:
    assert Client().post("/").status_code == 405


def test_browsers_find_the_favicon() -> None:
    answer = Client().get("/favicon.ico")
    assert (answer.status_code, answer["Content-Type"]) == (200, "image/x-icon")
    assert answer.getvalue().startswith(b"\x00\x00\x01\x00")
    answer.close()
    assert finders.find("predictions/favicon.svg")  # the pages name this one

"""/docs in a real browser, as production serves it and under a host name of its own."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.core.management import call_command
from playwright.sync_api import Page, expect, sync_playwright

from tests.helpers.document import OPERATIONS
from tests.helpers.servers import ROOT, Server

pytestmark = pytest.mark.slow

PICTURES = ROOT / "var" / "screenshots"
HOST = "agent.example.com"


@pytest.fixture
def web(serve: Callable[..., Server], tmp_path: Path, configured: Callable[..., None]) -> Server:
    """With collected static files alone, and keys."""
    static = str(tmp_path / "static")
    configured(STATIC_ROOT=static)
    call_command("collectstatic", interactive=False, verbosity=0)
    return serve(
        "web",
        ENVIRONMENT="production",
        SECRET_KEY="a-secret-key-of-fifty-characters-that-is-for-tests-only",
        ALLOWED_HOSTS=f"{HOST},127.0.0.1",
        STATIC_ROOT=static,
        API_KEYS="caller-key",
        ALLOW_ANONYMOUS="false",
        LOCAL_PREDICTOR="examples.iris:predict",
    )


@pytest.fixture
def page(web: Server) -> Iterator[Page]:
    """The open page. Every request is to its own host, and nothing complains."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    assert chromium, "install chromium (Debian: apt install chromium)"
    origin = f"http://{HOST}:{web.port}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=[
                "--no-sandbox",
                f"--host-resolver-rules=MAP {HOST} 127.0.0.1",
                f"--unsafely-treat-insecure-origin-as-secure={origin}",  # in the place of TLS
            ],
        )
        page = browser.new_page(viewport={"width": 1300, "height": 1000}, base_url=origin)
        asked: list[str] = []
        complaints: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto("/docs")
        expect(page.locator(".opblock").first).to_be_visible()
        yield page
        hosts = {urlsplit(url).hostname for url in asked if not url.startswith("data:")}
        browser.close()
    assert (hosts, complaints) == ({HOST}, [])


def test_every_route_is_shown(page: Page) -> None:
    shown = {
        (block.locator(".opblock-summary-path").get_attribute("data-path"), block.locator(".opblock-summary-method"))
        for block in page.locator(".opblock").all()
    }
    assert {(path, method.inner_text().lower()) for path, method in shown} == {
        (operation.path, operation.method) for operation in OPERATIONS
    }
    page.screenshot(path=PICTURES / "docs.png", full_page=True)
    page.locator("#operations-Predictions-predict button").first.click()
    expect(page.locator("#operations-Predictions-predict")).to_contain_text("platform_timeout")
    page.screenshot(path=PICTURES / "docs-predict.png", full_page=True)


@pytest.mark.parametrize("scheme", ["bearer", "apikey"])
def test_a_prediction_is_tried_with_a_key(page: Page, scheme: str) -> None:
    page.get_by_role("button", name="Authorize").first.click()
    dialog = page.locator(".dialog-ux")
    entry = dialog.locator(".auth-container", has=page.get_by_role("heading", name=scheme, exact=False)).first
    entry.get_by_role("textbox").fill("caller-key")
    page.screenshot(path=PICTURES / "docs-authorize.png")
    entry.get_by_role("button", name="Apply credentials").click()
    dialog.get_by_role("button", name="Close").last.click()
    block = page.locator("#operations-Predictions-predict")
    block.locator("button").first.click()
    block.get_by_role("button", name="Try it out").click()
    block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table .response-col_description code").first
    expect(answer).to_contain_text("setosa")
    assert json.loads(answer.inner_text())["status"] == "succeeded"
    page.screenshot(path=PICTURES / "docs-tried.png", full_page=True)

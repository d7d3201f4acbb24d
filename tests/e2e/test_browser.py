"""The admin in a real browser."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from django.contrib.auth.models import User
from django.core.management import call_command
from playwright.sync_api import Page, expect, sync_playwright

from predictions.models import Task
from predictions.queue import queue
from tests.helpers.servers import ROOT, Server
from tests.helpers.stub import Stub, streams_until_hung_up
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

PICTURES = ROOT / "var" / "screenshots"


@pytest.fixture
def collected(tmp_path: Path, configured: Callable[..., None]) -> str:
    """Where the static files are."""
    static = str(tmp_path / "static")
    configured(STATIC_ROOT=static)
    call_command("collectstatic", interactive=False, verbosity=0)
    return static


@pytest.fixture
def web(serve: Callable[..., Server], collected: str) -> Server:
    return serve("web", STATIC_ROOT=collected, LOCAL_PREDICTOR="examples:models")


@pytest.fixture
def page_of() -> Iterator[Callable[[Server], Page]]:
    """A browser on a server's admin, with an operator signed in."""
    User.objects.create_superuser("operator", password="a password")
    PICTURES.mkdir(parents=True, exist_ok=True)
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"  # playwright's loop runs in this thread
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    assert chromium, "install chromium (Debian: apt install chromium)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        refused: list[str] = []

        def sign_in(web: Server) -> Page:
            page = browser.new_page(viewport={"width": 1300, "height": 850}, base_url=web.url)
            page.on("console", lambda said: refused.append(said.text) if "Security Policy" in said.text else None)
            page.goto("/admin/")
            page.fill("input[name=username]", "operator")
            page.fill("input[name=password]", "a password")
            page.click("button[type=submit]")
            page.wait_for_url("**/admin/")
            return page

        yield sign_in
        browser.close()
    assert not refused


@pytest.fixture
def page(page_of: Callable[[Server], Page], web: Server) -> Page:
    return page_of(web)


def submit(web: Server, **inputs: object) -> str:
    body = {"model_name": "iris", "inputs": {"instances": [[5.1, 3.5, 1.4, 0.2]], **inputs}}
    return str(requests.post(f"{web.url}/async/v1/predict", json=body, timeout=30).json()["id"])


def test_a_task_is_watched_from_pending_to_succeeded(web: Server, page: Page, serve: Callable[..., Server]) -> None:
    task_id = submit(web)
    page.goto("/admin/predictions/task/")
    row = page.locator("tr", has_text=task_id[:18])
    expect(row).to_contain_text("Pending")
    page.screenshot(path=PICTURES / "tasks.png")
    serve("worker", LOCAL_PREDICTOR="examples:models")
    until(lambda: Task.objects.get().status == "succeeded")
    page.reload()
    expect(row).to_contain_text("Succeeded")
    row.get_by_role("link", name=task_id[:18]).click()
    expect(page.locator("body")).to_contain_text("setosa")
    page.screenshot(path=PICTURES / "task.png", full_page=True)


def test_the_dashboard_refreshes_itself_and_pauses_and_resumes_the_queue(
    web: Server, page: Page, serve: Callable[..., Server]
) -> None:
    expect(page.locator("#waiting")).to_have_text("0")
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Keep as it is").locator("visible=true").click()
    assert not queue.paused()
    page.get_by_role("button", name="Pause").click()
    page.locator("dialog[open]").get_by_role("button", name="Pause").click()
    expect(page.locator("#agent-numbers")).to_contain_text("The queue is paused (by operator)")
    assert queue.paused()
    serve("worker", LOCAL_PREDICTOR="examples:models")
    for _ in range(3):
        submit(web)
    expect(page.locator("#waiting")).to_have_text("3", timeout=20_000)  # without a reload
    expect(page.locator("#workers")).to_have_text("1", timeout=20_000)
    expect(page.locator("#agent-health")).to_contain_text("Database", timeout=20_000)
    page.screenshot(path=PICTURES / "dashboard.png", full_page=True)
    page.get_by_role("button", name="Resume").click()
    page.locator("dialog[open]").get_by_role("button", name="Resume").click()
    expect(page.locator("body")).to_contain_text("Resumed the queue.")
    expect(page.locator("#waiting")).to_have_text("0", timeout=20_000)
    until(lambda: Task.objects.filter(status="succeeded").count() == 3)


def test_deleting_waiting_tasks_from_the_dashboard_is_recorded_in_the_history(web: Server, page: Page) -> None:
    for _ in range(2):
        submit(web)
    page.get_by_role("button", name="Delete waiting").click()
    page.get_by_role("button", name="Delete waiting tasks").click()
    expect(page.locator("body")).to_contain_text("Canceled 2 of 2 waiting tasks.")
    page.goto("/admin/admin/logentry/")
    expect(page.locator("tr", has_text="Canceled 2 of 2 waiting tasks.")).to_contain_text("operator")
    assert {task.status for task in Task.objects.all()} == {"canceled"}


def test_the_try_it_page_runs_sync_and_async_predictions(web: Server, page: Page, serve: Callable[..., Server]) -> None:
    serve("worker", LOCAL_PREDICTOR="examples:models")
    page.get_by_role("link", name="Try it").click()
    page.get_by_role("button", name="Run on local").click()
    expect(page.locator("#try-status")).to_contain_text("200 succeeded")
    expect(page.locator("#try-answer")).to_contain_text("setosa")
    page.screenshot(path=PICTURES / "try.png")
    page.get_by_label("Async").check()
    page.get_by_role("button", name="Run on local").click()
    expect(page.locator("#try-status")).to_have_text("succeeded", timeout=20_000)
    page.get_by_label("Inputs").fill("[1, 2]")
    page.get_by_role("button", name="Run on local").click()
    expect(page.locator("#try-wrong")).to_contain_text("they must be an object")
    page.get_by_role("link", name="The task").click()
    expect(page.locator("body")).to_contain_text("setosa")
    page.get_by_text("Run again").click()
    page.get_by_role("button", name="Run it again").click()
    expect(page.locator("body")).to_contain_text("This is the new task.")
    assert Task.objects.count() == 3


def test_the_try_it_page_streams_piece_by_piece_and_cancels(
    page_of: Callable[..., Page], serve: Callable[..., Server], collected: str
) -> None:
    stub = Stub()
    stub.script(
        "POST /v1/models/m:predict",
        streams_until_hung_up(b'{"id": 0, "data": "first "}\n', b'{"id": 1, "data": "second"}\n'),
    )
    web = serve("web", STATIC_ROOT=collected, ML_PLATFORM="kserve", KSERVE_ADDRESS=stub.address)
    page = page_of(web)
    page.goto("/admin/agent/try")
    page.get_by_label("Model").fill("m")
    page.get_by_label("Inputs").fill("{}")
    page.get_by_label("Streaming").check()
    page.get_by_role("button", name="Run on kserve").click()
    expect(page.locator("#try-answer")).to_contain_text("second", timeout=20_000)
    expect(page.locator("#try-status")).to_have_text("streaming")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#try-status")).to_have_text("canceled", timeout=20_000)
    assert Task.objects.get().status == "canceled"
    stub.close()


def test_the_try_it_page_streams_the_words_of_the_text_example(web: Server, page: Page) -> None:
    page.goto("/admin/agent/try")
    page.get_by_label("Model").fill("text")
    page.get_by_label("Model").blur()
    expect(page.get_by_label("Inputs")).to_have_value(re.compile('"prompt": "The keeper"'))
    page.get_by_label("Streaming").check()
    page.get_by_role("button", name="Run on local").click()
    expect(page.locator("#try-answer")).to_contain_text("The keeper ", timeout=20_000)
    expect(page.locator("#try-status")).to_have_text("succeeded", timeout=20_000)
    page.screenshot(path=PICTURES / "try-stream.png")
    assert Task.objects.get().outputs.startswith("The keeper ")


@pytest.mark.parametrize("is_signed_in", [True, False])
def test_a_signed_in_operator_tries_a_route_on_the_api_page(page: Page, is_signed_in: bool) -> None:
    if not is_signed_in:
        page.context.clear_cookies()
    page.goto("/docs")
    block = page.locator("#operations-Queue-pause")
    block.locator("button").first.click()
    block.get_by_role("button", name="Try it out").click()
    block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table .response-col_description code").first
    expect(answer).to_contain_text('"paused": true' if is_signed_in else "unauthorized")
    assert queue.paused() is is_signed_in


def test_a_running_task_is_canceled_by_its_button(web: Server, page: Page, serve: Callable[..., Server]) -> None:
    worker = serve("worker", LOCAL_PREDICTOR="examples:models")
    task_id = submit(web, delay_seconds=120)
    until(lambda: Task.objects.get().status == "running")
    page.goto(f"/admin/predictions/task/{task_id}/change/")
    page.get_by_text("Cancel task").click()
    page.screenshot(path=PICTURES / "cancel.png")
    page.get_by_role("button", name="Cancel the task").click()
    expect(page.locator("body")).to_contain_text("The task is canceled.")
    assert Task.objects.get().status == "canceled"
    until(lambda: "the prediction was stopped" in worker.output())


def test_several_tasks_are_canceled_by_the_action(web: Server, page: Page) -> None:
    for _ in range(3):
        submit(web)
    page.goto("/admin/predictions/task/")
    page.locator("#action-toggle").check()
    page.locator("select[name=action]").select_option("cancel_selected")
    page.get_by_role("button", name="Run").click()
    expect(page.locator("body")).to_contain_text("3 canceled.")
    page.goto("/admin/django_rq/dashboard/")
    page.screenshot(path=PICTURES / "queues.png")
    expect(page.locator("body")).to_contain_text("default")

"""The admin in a real browser."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from django.contrib.auth.models import User
from django.core.management import call_command
from playwright.sync_api import Page, expect, sync_playwright

from predictions.models import Task
from tests.predictions.test_cancel import until
from tests.servers import ROOT, Server

pytestmark = pytest.mark.slow

PICTURES = ROOT / "var" / "screenshots"


@pytest.fixture
def web(serve: Callable[..., Server], tmp_path: Path, configured: Callable[..., None]) -> Server:
    static = str(tmp_path / "static")
    configured(STATIC_ROOT=static)
    call_command("collectstatic", interactive=False, verbosity=0)
    return serve("web", STATIC_ROOT=static, LOCAL_PREDICTOR="examples.iris:predict")


@pytest.fixture
def page(web: Server) -> Iterator[Page]:
    User.objects.create_superuser("operator", password="a password")
    PICTURES.mkdir(parents=True, exist_ok=True)
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"  # playwright's loop runs in this thread
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    assert chromium, "install chromium (Debian: apt install chromium)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 850}, base_url=web.url)
        page.goto("/admin/")
        page.fill("input[name=username]", "operator")
        page.fill("input[name=password]", "a password")
        page.click("button[type=submit]")
        page.wait_for_url("**/admin/")
        yield page
        browser.close()


def submit(web: Server, **inputs: object) -> str:
    body = {"model_name": "iris", "inputs": {"instances": [[5.1, 3.5, 1.4, 0.2]], **inputs}}
    return str(requests.post(f"{web.url}/async/v1/predict", json=body, timeout=30).json()["id"])


def test_a_task_is_watched_from_pending_to_succeeded(web: Server, page: Page, serve: Callable[..., Server]) -> None:
    task_id = submit(web)
    page.goto("/admin/predictions/task/")
    row = page.locator("tr", has_text=task_id[:8])
    expect(row).to_contain_text("Pending")
    page.screenshot(path=PICTURES / "tasks.png")
    serve("worker", LOCAL_PREDICTOR="examples.iris:predict")
    until(lambda: Task.objects.get().status == "succeeded")
    page.reload()
    expect(row).to_contain_text("Succeeded")
    row.get_by_role("link", name=task_id[:8]).click()
    expect(page.locator("body")).to_contain_text("setosa")
    page.screenshot(path=PICTURES / "task.png", full_page=True)


def test_a_running_task_is_canceled_by_its_button(web: Server, page: Page, serve: Callable[..., Server]) -> None:
    worker = serve("worker", LOCAL_PREDICTOR="examples.iris:predict")
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

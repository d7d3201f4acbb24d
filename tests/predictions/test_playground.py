"""The admin's "Try it" page and "Run again": predictions by staff, as an API caller would ask for them."""

import html
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client

from predictions.models import Task
from predictions.queue import queue
from tests.helpers.factories import TaskFactory

TRY = "/admin/agent/try"
BODY: dict[str, Any] = {"model_name": "iris", "inputs": {"n": 1}}


def staff_with(*permissions: str) -> Client:
    user = User.objects.create_user("operator", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def staff() -> Client:
    return staff_with("view_task", "run_task", "cancel_task")


def ask(client: Client, route: str, **headers: str) -> Any:
    return client.post(f"{TRY}{route}", BODY, content_type="application/json", headers=headers)


def test_staff_run_sync_async_and_streaming_predictions(staff: Client, configured: Callable[..., None]) -> None:
    configured(API_KEYS=["a-key"], ALLOW_ANONYMOUS=False)
    answer = ask(staff, "/v1/predict", UID="operator")
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
    task_id = ask(staff, "/async/v1/predict").json()["id"]
    assert staff.get(f"{TRY}/task/{task_id}").json()["status"] == "pending"
    assert staff.post(f"{TRY}/cancel/{task_id}").status_code == 200
    assert ask(staff, "/v1/generate").json()["code"] == "unsupported"
    assert Task.objects.get(status="succeeded").user_id == "operator"


def test_without_the_permission_staff_may_look_at_the_page_and_run_nothing() -> None:
    onlooker = staff_with("view_task")
    page = onlooker.get(TRY).content.decode()
    assert "Can run predictions from the admin" in page
    assert "Run on" not in page
    assert ask(onlooker, "/v1/predict").status_code == 403
    assert not Task.objects.exists()


def test_strangers_and_other_sites_run_nothing(staff: Client) -> None:
    assert ask(Client(), "/v1/predict").status_code == 401
    assert ask(Client(), "/v1/predict", apikey="operator-key").status_code == 401
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = staff.cookies
    assert ask(strict, "/v1/predict").status_code == 403
    assert Client().get(TRY).status_code == 302
    assert not Task.objects.exists()


def test_the_page_can_be_filled_from_an_earlier_task(staff: Client) -> None:
    task = TaskFactory(model_name="fox", model_version="v2", inputs={"prompt": "</textarea>"})
    page = staff.get(TRY, {"task": task.pk}).content.decode()
    assert 'value="fox"' in page
    assert 'value="v2"' in page
    assert "&lt;/textarea&gt;" in page
    assert staff.get(TRY, {"task": "none-such"}).status_code == 200


def test_the_page_offers_the_platforms_models_with_their_documented_inputs(
    staff: Client, configured: Callable[..., None]
) -> None:
    name, arguments = settings.PLATFORMS["local"]
    configured(PLATFORMS={"local": (name, {**arguments, "predictor": "tests.helpers.streaming_predictor:models"})})
    page = html.unescape(staff.get(TRY).content.decode())
    assert '<option value="words">' in page
    assert '"words": {"words": ["a"]}' in page


def test_a_platform_that_names_no_models_suggests_no_inputs(staff: Client) -> None:
    page = staff.get(TRY).content.decode()
    assert ">{}</textarea>" in page
    assert 'name="model_name" list="try-models" required value=""' in page


def test_run_again_queues_a_new_task_with_the_same_inputs(staff: Client) -> None:
    asked = Task.objects.create(
        agent="default", model_name="fox", model_version="v2", inputs={"n": 7}, user_id="ann", status="failed"
    )
    answer = staff.post(f"/admin/predictions/task/{asked.pk}/run-again/", {"_form_submitted": "True"})
    again = Task.objects.exclude(pk=asked.pk).get()
    assert answer.headers["HX-Redirect"] == f"/admin/predictions/task/{again.pk}/change/"
    assert (again.status, again.model_name, again.model_version) == ("pending", "fox", "v2")
    assert (again.inputs, again.user_id) == ({"n": 7}, "ann")
    assert queue.sizes().waiting == 1
    assert asked.pk in LogEntry.objects.get().change_message


def test_run_again_says_that_the_queue_is_full(staff: Client, configured: Callable[..., None]) -> None:
    configured(MAX_QUEUE_SIZE=1)
    asked = TaskFactory(model_name="fox", inputs={}, status="failed")
    for _ in range(2):
        answer = staff.post(f"/admin/predictions/task/{asked.pk}/run-again/", {"_form_submitted": "True"})
    assert "The queue is full" in staff.get(answer.headers["HX-Redirect"]).content.decode()
    assert Task.objects.count() == 2


def test_a_tasks_page_has_its_request_as_curl(staff: Client) -> None:
    task = TaskFactory(model_name="fox", inputs={"say": "it's"}, status="failed")
    page = staff.get(f"/admin/predictions/task/{task.pk}/change/").content.decode()
    assert (
        "/async/v1/predict -H &#x27;apikey: YOUR-KEY&#x27;" in page or "/async/v1/predict -H 'apikey: YOUR-KEY'" in page
    )
    assert "Run again" in page

"""Permissions: a table of every route and every kind of caller. A route without a row fails."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from rest_framework.test import APIClient

from predictions import submission
from predictions.queue import queue
from tests.helpers.clients import KEYS, caller
from tests.helpers.factories import TaskFactory
from tests.helpers.pages import table, word
from tests.helpers.routes import admin_pages, routes

CALLERS = ["nobody", *KEYS, "staff", "staff without CSRF token", "user who is not staff"]
IN, LOGIN = "in", "sent to sign in"
REFUSED = (401, 403, LOGIN)

# The answer to each kind of caller; callers not named get 401.
OPEN: dict[str, int | str] = dict.fromkeys(CALLERS, IN)
CALLER: dict[str, int | str] = {"API key": IN, "operator key": IN, "record key": 403}
CALLER_OR_RECORD: dict[str, int | str] = CALLER | {"record key": IN}
RECORD: dict[str, int | str] = {"record key": IN, "API key": 403, "operator key": 403}
OPERATOR: dict[str, int | str] = {
    "operator key": IN,
    "staff": IN,
    "API key": 403,
    "record key": 403,
    "staff without CSRF token": 403,
    "user who is not staff": 403,
}
METRICS: dict[str, int | str] = {"metrics key": IN}
SECRET_PATH: dict[str, int | str] = dict.fromkeys(CALLERS, 404)

TABLE: dict[str, dict[str, int | str]] = {
    "POST /v1/predict": CALLER,
    "POST /async/v1/predict": CALLER,
    "POST /v1/generate": CALLER,
    "GET /v1/docs": CALLER,
    "GET /v1/queue_size": CALLER,
    "GET /unfinished": CALLER,
    "GET /task/{task_id}": CALLER_OR_RECORD,
    "POST /cancel/{task_id}": CALLER,
    "POST /pause": OPERATOR,
    "POST /unpause": OPERATOR,
    "POST /delete_pending": OPERATOR,
    "GET /": OPEN,
    "GET /live": OPEN,
    "GET /ready": OPEN,
    "GET /metrics": METRICS,
    "GET /docs": OPEN,
    "GET /openapi.json": OPEN,
    "POST /task": RECORD,
    "PUT /task": RECORD,
    "GET /task/modelstatus": RECORD,
    "POST /upload": RECORD,
    "POST /upload_batch": RECORD,
    "POST /u/{token}/upload": SECRET_PATH,
    "POST /u/{token}/upload_batch": SECRET_PATH,
    "GET /media/{name}": SECRET_PATH,
}
IN_THE_REFERENCE = {
    "caller": CALLER,
    "caller, record client": CALLER_OR_RECORD,
    "operator": OPERATOR,
    "record client": RECORD,
    "anyone": OPEN,
    "Prometheus": METRICS,
    "a running task's model": SECRET_PATH,
    "anyone with the name": SECRET_PATH,
}
ADMIN_FOR_ALL = {"/admin", "/admin/login/", "/admin/logout/", "/admin/r/x", "/admin/r/x/x/"}
"""Pages of the admin that show nothing. All others, whatever they are, send visitors to sign in."""


def verdict(response: Any) -> int | str:
    assert response.status_code < 500, response.content[:500]
    if response.headers.get("Location", "").startswith("/admin/login/"):
        return LOGIN
    return int(response.status_code) if response.status_code in (401, 403, 404) else IN


@pytest.fixture(autouse=True)
def _keys(configured: Callable[..., None]) -> None:
    configured(
        API_KEYS=["callers-key"],
        OPERATOR_KEYS=["operator-key"],
        WEBHOOK_APIKEY="record-key",
        METRICS_KEY="metrics-key",
        ALLOW_ANONYMOUS=False,
    )


@pytest.mark.parametrize("urlconf", ["config.urls", "webhooks.urls"])
def test_every_route_has_a_row(urlconf: str) -> None:
    without = [route for route in routes(urlconf) if route not in TABLE]
    assert not without, f"say in the table who may call {', '.join(without)}"


def test_every_row_has_a_route() -> None:
    assert sorted(TABLE) == routes("config.urls")


def test_the_reference_says_who_may_call_a_route() -> None:
    told = {f"{row[1]} {word(row[0])}": row[2] for row in table("route")}
    assert told.pop("GET /admin/") == "staff"
    expected = {re.sub(r"{task_id}", "{id}", route): who for route, who in TABLE.items()}
    assert {route: IN_THE_REFERENCE[who] for route, who in told.items()} == expected


@pytest.mark.parametrize("kind", CALLERS)
@pytest.mark.parametrize("urlconf", ["config.urls", "webhooks.urls"])
def test_the_table(urlconf: str, kind: str, settings: Any) -> None:
    settings.ROOT_URLCONF = urlconf
    client = caller(kind)
    wrong = []
    for route in routes(urlconf):
        method, path = route.split(" ")
        response = client.generic(method, re.sub(r"{\w+}", "x", path), b"{}", content_type="application/json")
        expected = TABLE[route].get(kind, 401)
        got = verdict(response)
        if got != expected and not (expected == IN and got == 404):
            wrong.append((route, got, expected))
    assert not wrong


@pytest.mark.parametrize("kind", CALLERS)
def test_every_page_of_the_admin_is_for_staff(kind: str) -> None:
    client = caller(kind)
    for path in set(admin_pages()) - ADMIN_FOR_ALL:
        got = verdict(client.get(path))
        assert got not in (401, LOGIN) if kind.startswith("staff") else got in REFUSED, path


@pytest.mark.parametrize("kind", CALLERS)
def test_nothing_is_changed_in_the_admin_by_others_than_staff_with_a_csrf_token(kind: str) -> None:
    client = caller(kind)
    for path in set(admin_pages()) - ADMIN_FOR_ALL:
        got = verdict(client.post(path, {}, content_type="application/json"))
        assert got not in (401, LOGIN) if kind == "staff" else got in REFUSED, path


def staff(*permissions: str) -> Client:
    user = User.objects.create(username="op", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client(raise_request_exception=False)
    client.force_login(user)
    return client


TASKS, QUEUES = "/admin/predictions/task/", "/admin/django_rq/dashboard/"


def test_staff_without_permissions_see_no_task(client: APIClient) -> None:
    task_id = TaskFactory(model_name="m").pk
    browser = staff()
    for path in (TASKS, f"{TASKS}{task_id}/change/", f"{TASKS}{task_id}/cancel/", QUEUES, f"{QUEUES}queues/0/"):
        assert browser.get(path).status_code == 403, path


def test_view_permission_allows_no_action() -> None:
    task = TaskFactory(model_name="m")
    browser = staff("view_task")
    for path in (TASKS, f"{TASKS}{task.pk}/change/", QUEUES, f"{QUEUES}queues/0/", f"{QUEUES}stats.json"):
        assert browser.get(path).status_code == 200, path
    assert browser.post(f"{TASKS}{task.pk}/cancel/", {"_form_submitted": "True"}).status_code == 403
    browser.post(TASKS, {"action": "cancel_selected", "_selected_action": [task.pk]})
    for act in ("empty/", "requeue-all/", "failed/clear/", f"{task.pk}/delete/", f"{task.pk}/enqueue/"):
        assert browser.post(f"{QUEUES}queues/0/{act}").status_code == 403, act
    assert browser.post("/admin/agent/queue/pause").status_code == 403
    task.refresh_from_db()
    assert (task.status, queue.paused()) == ("pending", False)


def test_cancel_permission_allows_nothing_else_on_a_task() -> None:
    task = TaskFactory(model_name="m")
    browser = staff("view_task", "cancel_task")
    assert browser.post(f"{TASKS}{task.pk}/change/", {"status": "failed"}).status_code == 403
    assert browser.post(f"{TASKS}{task.pk}/delete/", {"post": "yes"}).status_code == 403
    assert browser.get("/admin/auth/user/").status_code == 403
    browser.post(f"{TASKS}{task.pk}/cancel/", {"_form_submitted": "True"})
    task.refresh_from_db()
    assert task.status == "canceled"


def test_cancel_permission_allows_the_dashboards_buttons_and_queue_actions() -> None:
    waiting = str(submission.submit(submission.PredictionRequest(model_name="m", inputs={})).pk)
    browser = staff("view_task", "cancel_task")
    assert browser.post("/admin/agent/queue/pause").status_code == 302
    assert (queue.paused(), queue.waiting_ids()) == (True, [waiting])
    browser.post(f"{QUEUES}queues/0/empty/")
    assert queue.waiting_ids() == []


@pytest.mark.parametrize("path", ["queues/9/", "queues/9/x/", "workers/9/", "schedulers/9/", "queues/0/no-such-job/"])
def test_a_queue_that_there_is_not_is_not_found(path: str) -> None:
    assert caller("staff").get(f"{QUEUES}{path}").status_code == 404


@pytest.mark.parametrize("path", ["/admin/r/1/1/", "/admin/r/8/x/"])
def test_nothing_has_a_page_of_its_own(path: str) -> None:
    assert caller("staff").get(path).status_code == 404


def test_the_admin_is_found_without_its_slash() -> None:
    assert Client().get("/admin")["Location"] == "/admin/"


@pytest.mark.parametrize(
    "query",
    [
        "q=%00",
        "user_id=%00",
        "user_id__icontains=a",
        "status__exact=%00",
        "created_at__gte=%00",
        "created_at__gte=x",
        "created_at__year=99999999",
        "created_at__year=x",
        "created_at__day=7",
        "user_id__regex=(a%2B)%2B",
        "inputs__contains=secret",
        "uploads__name__startswith=x",
        "p=99999999999999999999",
        "o=99.-1",
        "foo=bar",
    ],
)
def test_a_strange_question_to_the_task_list_is_no_defect(query: str) -> None:
    assert caller("staff").get(f"{TASKS}?{query}").status_code in (200, 302, 400)

"""The admin, through its pages."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient
from rq.defaults import RQ_KEY_PREFIX

from predictions.models import Task
from predictions.queue import queue
from predictions.queue.overview import overview
from tests.helpers import environment
from tests.helpers.api import submit
from tests.helpers.factories import TaskFactory
from tests.helpers.waiting import until
from tests.helpers.workers import RunningWorker

LIST = "/admin/predictions/task/"


def signed_in(**fields: Any) -> Client:
    user = User.objects.create(username="op", is_staff=True, **fields)
    browser = Client()
    browser.force_login(user)
    return browser


@pytest.fixture
def admin() -> Client:
    return signed_in(is_superuser=True)


def test_the_list_shows_tasks_with_their_status(admin: Client, client: APIClient) -> None:
    submit(client, UID="ann")
    page = admin.get(LIST).content.decode()
    assert "Pending" in page
    assert "ann" in page


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"status__exact": "pending"}, 1),
        ({"status__exact": "failed"}, 0),
        ({"model_name": "iris"}, 1),
        ({"model_name": "iri"}, 0),
        ({"user_id": "ann"}, 1),
        ({"user_id": "bob"}, 0),
        ({"platform": "local"}, 1),
        ({"platform": "kserve"}, 0),
        ({"status__exact": "", "model_name": "", "user_id": "", "platform": ""}, 1),
        ({"q": "ann"}, 1),
        ({"q": "iris"}, 1),
        ({"q": "request-7"}, 1),
        ({"q": "nobody"}, 0),
        ({"created_at__gte": "2020-01-01 00:00:00+00:00"}, 1),
        ({"created_at__lt": "2020-01-01 00:00:00+00:00"}, 0),
    ],
)
def test_filters_and_search(admin: Client, client: APIClient, query: dict[str, str], found: int) -> None:
    task_id = submit(client, UID="ann", **{"X-Request-ID": "request-7"})
    page = admin.get(LIST, query).content.decode()
    assert page.count(f"{LIST}{task_id}/change/") == found


def test_a_task_is_found_by_the_beginning_of_its_id(admin: Client, client: APIClient) -> None:
    task_id = submit(client)
    assert f"{LIST}{task_id}/change/" in admin.get(LIST, {"q": task_id[:18]}).content.decode()


def test_the_list_never_counts_the_table_and_reads_no_outputs(admin: Client, client: APIClient) -> None:
    submit(client)
    admin.get(LIST)
    with CaptureQueriesContext(connection) as queries:
        admin.get(LIST)
    of_tasks = [query["sql"] for query in queries if "predictions_task" in query["sql"]]
    assert len(of_tasks) == 2  # a page, and the oldest and the newest date
    assert not [sql for sql in of_tasks if re.search(r"count\(|distinct|inputs|outputs", sql, re.IGNORECASE)]


def test_a_tasks_page_is_read_only_and_shows_what_happened(admin: Client, client: APIClient, work: Any) -> None:
    task_id = submit(client, {"answer": {"<b>": "bold"}})
    work()
    page = admin.get(f"{LIST}{task_id}/change/").content.decode()
    assert page.count("&quot;&lt;b&gt;&quot;: &quot;bold&quot;") == 3  # inputs, outputs, and the request as curl
    assert "<b>" not in page
    assert 'name="status"' not in page
    assert "Queue time" in page
    response = admin.post(f"{LIST}{task_id}/change/", {"status": "failed"})
    assert response.status_code == 403
    assert admin.get(f"{LIST}add/").status_code == 403
    assert admin.post(f"{LIST}{task_id}/delete/", {"post": "yes"}).status_code == 403
    assert Task.objects.get().status == "succeeded"


def test_a_tasks_page_shows_the_outcome_of_canceling_the_platforms_job(admin: Client) -> None:
    task = TaskFactory(model_name="m", status="canceled", upstream_id="job-1", upstream_cancel="already finished")
    page = admin.get(f"{LIST}{task.pk}/change/").content.decode()
    assert "job-1" in page
    assert "already finished" in page


def test_pictures_and_links_among_the_outputs_are_shown(admin: Client) -> None:
    picture, link = "http://agent/media/uploads/a.PNG?x=1", "https://example.com/report.pdf"
    outputs = {
        "output": [picture, {"more": link}, "javascript:alert(1)", "data:text/html,x", "data:image/png;base64,AA=="]
    }
    task = TaskFactory(model_name="painter", status="succeeded", outputs=outputs)
    page = admin.get(f"{LIST}{task.pk}/change/").content.decode()
    assert re.findall(r'<img src="([^"]*)" alt="an output', page) == [picture, "data:image/png;base64,AA=="]
    assert f'href="{link}"' in page
    assert 'href="javascript' not in page
    assert 'href="data' not in page


def test_cancel_as_a_button(admin: Client, client: APIClient) -> None:
    task_id = submit(client)
    assert f"{LIST}{task_id}/cancel/" in admin.get(f"{LIST}{task_id}/change/").content.decode()
    assert "Cancel this task?" in admin.get(f"{LIST}{task_id}/cancel/").content.decode()
    assert Task.objects.get().status == "pending"
    response = admin.post(f"{LIST}{task_id}/cancel/", {"_form_submitted": "True"})
    assert response["HX-Redirect"] == f"{LIST}{task_id}/change/"
    assert Task.objects.get().status == "canceled"
    assert queue.sizes().waiting == 0
    assert LogEntry.objects.get().change_message == "Canceled."
    assert f"{LIST}{task_id}/cancel/" not in admin.get(f"{LIST}{task_id}/change/").content.decode()


def test_cancel_selected(admin: Client, client: APIClient) -> None:
    ids = [submit(client) for _ in range(3)]
    Task.objects.filter(pk=ids[0]).update(status="succeeded")
    answer = admin.post(LIST, {"action": "cancel_selected", "_selected_action": ids}, follow=True)
    assert "2 canceled." in answer.content.decode()
    assert "has already ended" in answer.content.decode()
    assert sorted(Task.objects.values_list("status", flat=True)) == ["canceled", "canceled", "succeeded"]


def test_staff_without_the_permission_may_look_and_not_cancel(client: APIClient) -> None:
    task_id = submit(client)
    browser = signed_in()
    assert browser.get(LIST).status_code == 403
    User.objects.get().user_permissions.add(Permission.objects.get(codename="view_task"))
    page = browser.get(f"{LIST}{task_id}/change/")
    assert page.status_code == 200
    assert f"{LIST}{task_id}/cancel/" not in page.content.decode()
    assert browser.post(f"{LIST}{task_id}/cancel/", {"_form_submitted": "True"}).status_code == 403
    browser.post(LIST, {"action": "cancel_selected", "_selected_action": [task_id]})
    assert Task.objects.get().status == "pending"


@pytest.mark.parametrize("path", ["", "queues/0/", "queues/0/finished/", "queues/0/failed/", "workers/0/"])
def test_django_rqs_pages_are_reachable(admin: Client, client: APIClient, work: Any, path: str) -> None:
    submit(client)
    submit(client, {"raise": "KeyError"})
    work()
    assert admin.get(f"/admin/django_rq/dashboard/{path}").status_code == 200


def test_rq_info_shows_the_queue_and_its_workers(client: APIClient, start_worker: Callable[..., RunningWorker]) -> None:
    """On a cluster it needs the prefix of the agent's keys, and the node that has their slot."""
    worker = start_worker().worker
    queue.pause("the test")
    for _ in range(3):
        submit(client)
    until(lambda: len(overview().workers) == 1)
    said = subprocess.run(
        [sys.executable, "-m", "rq.cli", "info", "-u", f"redis://{environment.servers.master().address}", "--raw"],
        env={**os.environ, "RQ_KEY_PREFIX": RQ_KEY_PREFIX},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "queue default 3" in said
    assert f"worker {worker.name}" in said


def test_a_job_has_its_page(admin: Client, client: APIClient, work: Any) -> None:
    task_id = submit(client)
    page = admin.get(f"{LIST}{task_id}/change/").content.decode()
    (link,) = re.findall(rf'href="(/admin/django_rq/[^"]*{task_id}[^"]*)"', page)
    assert admin.get(link).status_code == 200
    work()
    assert admin.get(link).status_code == 200


@pytest.mark.parametrize("path", ["/admin/", LIST, "/admin/auth/user/", "/admin/auth/group/", "/admin/auth/user/add/"])
def test_every_page_opens(admin: Client, path: str) -> None:
    assert admin.get(path).status_code == 200


def test_visitors_are_sent_to_sign_in(client: APIClient) -> None:
    assert client.get(LIST)["Location"].startswith("/admin/login/")

"""deploy/nginx/serving-agent.conf in a real nginx, in front of the agent with the README's settings for production."""

import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from django.conf import settings
from django.contrib.auth.models import User

from predictions.models import Task
from tests.helpers.api import assert_error
from tests.helpers.pages import documented_production
from tests.helpers.ports import free_port
from tests.helpers.proxy import Proxy
from tests.helpers.servers import Server
from tests.helpers.stub import Stub, Visit, answers, chunked, hangs, head, resets_after_reading
from tests.peers.front import FILE, Front

pytestmark = pytest.mark.slow

KEY = "key1"
RECORD_KEY = "record-key"
STORES = ("DATABASE_URL", "REDIS_ADDRESS")
MIB = 1024 * 1024
LIES = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9", "X-Real-IP": "203.0.113.9"}

NewFront = Callable[..., Front]


@pytest.fixture
def front_of(tmp_path: Path) -> Iterator[NewFront]:
    """Starts nginx in front of an address, once `nginx -t` has accepted its configuration."""
    started: list[Front] = []

    def start(agent: str, port: int = 0, more: dict[str, str] | None = None) -> Front:
        front = Front(tmp_path, port=port or free_port(), agent=agent, more=more)
        said = front.check_configuration()
        assert "test is successful" in said, said
        assert "[warn]" not in said, said
        front.start()
        started.append(front)
        return front

    yield start
    for front in started:
        front.kill()


@pytest.fixture
def front(serve: Callable[..., Server], front_of: NewFront) -> NewFront:
    """Starts the agent as the README's "In production" says, but for its stores, and nginx in front of it."""

    def start(port: int = 0, **environment: str) -> Front:
        port = port or free_port()
        production = {name: value for name, value in documented_production().items() if name not in STORES}
        names = {"ALLOWED_HOSTS": "localhost", "CSRF_TRUSTED_ORIGINS": f"https://localhost:{port}"}
        web = serve("web", **{**production, **names, **environment})
        return front_of(f"127.0.0.1:{web.port}", port)

    return start


@pytest.fixture
def stub() -> Iterator[Stub]:
    server = Stub()
    yield server
    server.close()


def predict(front: Front, inputs: dict[str, Any], **headers: str) -> requests.Response:
    return send(front, "POST", "/v1/predict", json={"model_name": "m", "inputs": inputs}, headers=headers)


def send(front: Front, method: str, path: str, **options: Any) -> requests.Response:
    """Over HTTPS, with a caller's key; redirects are not followed."""
    with front.session(apikey=KEY) as session:
        return session.request(method, f"{front.https}{path}", allow_redirects=False, timeout=120, **options)


# --- HTTPS


def test_a_prediction_over_https_is_answered_without_a_redirect(front: NewFront) -> None:
    here = front()
    response = predict(here, {"answer": 7})
    assert (response.status_code, response.json()["outputs"]) == (200, 7)
    assert response.headers["Strict-Transport-Security"] == "max-age=31536000"
    assert response.headers["Server"] == "nginx"
    task = send(here, "GET", f"/task/{response.json()['id']}")
    assert (task.status_code, task.json()["status"]) == (200, "succeeded")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_caller_over_plain_http_who_claims_https_is_redirected(front: NewFront, method: str) -> None:
    here = front()
    with here.session(apikey=KEY, **LIES) as session:
        body = {"model_name": "m", "inputs": {}}
        url = f"{here.http}/v1/predict?a=1"
        response = session.request(method, url, json=body, allow_redirects=False, timeout=60)
    assert (response.status_code, response.headers["Location"]) == (308, f"{here.https}/v1/predict?a=1")
    assert not Task.objects.exists()


def test_a_prediction_sent_over_plain_http_runs_after_the_redirect(front: NewFront) -> None:
    here = front()
    with here.session(apikey=KEY) as session:
        body = {"model_name": "m", "inputs": {"answer": 7}}
        response = session.post(f"{here.http}/v1/predict", json=body, timeout=60)
    assert [redirect.status_code for redirect in response.history] == [308]
    assert (response.status_code, response.json()["outputs"]) == (200, 7)


def test_a_caller_over_https_who_claims_plain_http_is_not_redirected(front: NewFront) -> None:
    assert predict(front(), {"answer": 7}, **{"X-Forwarded-Proto": "http"}).status_code == 200


@pytest.mark.parametrize("claimed", ["http", "https", "ftp"])
def test_nginx_replaces_what_callers_say_about_themselves(front_of: NewFront, stub: Stub, claimed: str) -> None:
    here = front_of(stub.address)
    stub.script("GET /live", answers({}))
    send(here, "GET", "/live", headers={**LIES, "X-Forwarded-Proto": claimed})
    seen = stub.received[0].headers
    assert seen["x-forwarded-proto"] == "https"
    assert (seen["x-forwarded-for"], seen["x-real-ip"]) == ("127.0.0.1", "127.0.0.1")
    assert seen["host"] == f"localhost:{here.port}"


def test_nginx_passes_on_a_callers_claim_where_the_line_that_replaces_it_is_left_out(
    front_of: NewFront, stub: Stub
) -> None:
    here = front_of(stub.address, more={"proxy_set_header X-Forwarded-Proto $scheme;": ""})
    stub.script("GET /live", answers({}))
    send(here, "GET", "/live", headers={"X-Forwarded-Proto": "ftp"})
    assert stub.received[0].headers["x-forwarded-proto"] == "ftp"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_nginx_speaks_tls_1_2_and_1_3(front_of: NewFront, stub: Stub, version: ssl.TLSVersion) -> None:
    with front_of(stub.address).connection(version) as connection:
        assert connection.version() == version.name.replace("_", ".")


def test_a_request_for_another_host_is_refused_by_the_agent(front: NewFront) -> None:
    assert_error(predict(front(), {}, Host="elsewhere.example"), 400, "invalid_request")


def test_the_line_that_the_configuration_shows_hides_a_route(front_of: NewFront, stub: Stub) -> None:
    (line,) = re.findall(r"To hide one: (location = /metrics .*)$", FILE.read_text(), re.MULTILINE)
    here = front_of(stub.address, more={"    location / {": f"{line}\n    location / {{"})
    stub.script("GET /live", answers({}))
    assert send(here, "GET", "/metrics").status_code == 404
    assert send(here, "GET", "/live").status_code == 200
    assert [request.path for request in stub.received] == ["/live"]


# --- The admin


@pytest.mark.parametrize(("origin", "status"), [("{own}", 302), ("https://elsewhere.example", 403)])
def test_an_operator_signs_in_to_the_admin_from_its_own_origin_only(front: NewFront, origin: str, status: int) -> None:
    User.objects.create_superuser("op", password="a password")
    here = front()
    page = f"{here.https}/admin/login/?next=/admin/"
    with here.session() as session:
        form = session.get(page, timeout=60)
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form.text)
        assert token
        fields = {"csrfmiddlewaretoken": token[1], "username": "op", "password": "a password", "next": "/admin/"}
        sent_from = {"Origin": origin.format(own=here.https), "Referer": page}
        answer = session.post(page, data=fields, headers=sent_from, allow_redirects=False, timeout=60)
        assert answer.status_code == status
        assert {cookie.name: cookie.secure for cookie in session.cookies} == (
            {"csrftoken": True, "sessionid": True} if status == 302 else {"csrftoken": True}
        )
        dashboard = session.get(f"{here.https}/admin/", allow_redirects=False, timeout=60)
        assert dashboard.status_code == (200 if status == 302 else 302)


# --- Bodies


def test_a_body_above_nginx_default_of_1_mb_reaches_the_agent(front: NewFront) -> None:
    inputs = {"text": "x" * (MIB + 1)}
    assert predict(front(), inputs).json()["outputs"] == {"echo": inputs}


def test_a_body_above_max_request_body_is_refused_by_the_agent(front: NewFront) -> None:
    response = predict(front(), {"text": "x" * settings.MAX_REQUEST_BODY})
    assert_error(response, 413, "body_too_large")


def test_nginx_forwards_a_request_after_reading_all_of_it(front_of: NewFront, stub: Stub) -> None:
    here = front_of(stub.address)
    stub.script("GET /live", answers({}))
    stub.script("POST /v1/predict", answers({}))
    with here.connection() as slow:
        slow.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n{ ")
        assert send(here, "GET", "/live").status_code == 200
        assert stub.count("POST /v1/predict") == 0
        slow.sendall(b" }")
        assert slow.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert stub.received[-1].body == b"{  }"


def upload(front: Front, route: str, **files: bytes) -> requests.Response:
    parts = {name: (f"{name}.bin", content) for name, content in files.items()}
    return send(front, "POST", route, files=parts, headers={"apikey": RECORD_KEY})


def test_an_uploaded_file_is_read_back_at_the_url_in_the_answer(front: NewFront) -> None:
    here = front(WEBHOOK_APIKEY=RECORD_KEY)
    content = b"\x00\xff" * MIB
    url = upload(here, "/upload", file=content).json()["url"]
    assert url.startswith(f"{here.https}/media/")
    with here.session() as session:
        assert session.get(url, timeout=60).content == content


def test_a_model_uploads_to_the_address_that_callers_use(front: NewFront, stub: Stub) -> None:
    """As a model on another machine does, with UPLOAD_WEBHOOK_ADDRESS=https://…: nginx does not redirect it."""
    port = free_port()
    settings = {"ML_PLATFORM": "kserve", "KSERVE_ADDRESS": stub.address}
    here = front(port, UPLOAD_WEBHOOK_ADDRESS=f"https://localhost:{port}", **settings)
    urls: list[str] = []

    def makes_a_file(visit: Visit) -> None:
        visit.read_body()
        address = visit.received.json["upload_webhook"]
        with here.session() as session:
            files = {"file": ("a.bin", b"made by a model")}
            answer = session.post(address, files=files, allow_redirects=False, timeout=60)
        urls.append(answer.json()["url"])
        answers({})(visit)

    stub.script("POST /v1/models/m:predict", makes_a_file)
    assert predict(here, {}).status_code == 200
    assert urls[0].startswith(f"{here.https}/media/")
    with here.session() as session:
        assert session.get(urls[0], timeout=60).content == b"made by a model"


def test_a_batch_may_be_larger_than_the_largest_file(front: NewFront) -> None:
    here = front(WEBHOOK_APIKEY=RECORD_KEY)
    file = b"x" * (settings.MAX_UPLOAD_SIZE * 2 // 3)
    response = upload(here, "/upload_batch", file_0=file, file_1=file)
    assert (response.status_code, len(response.json()["urls"])) == (200, 2)


def test_a_file_above_max_upload_size_is_refused_by_the_agent(front: NewFront) -> None:
    here = front(WEBHOOK_APIKEY=RECORD_KEY)
    response = upload(here, "/upload", file=b"x" * (settings.MAX_UPLOAD_SIZE + 1))
    assert_error(response, 413, "upload_too_large")


def test_an_upload_with_a_wrong_key_is_refused_before_its_file_is_sent(front: NewFront) -> None:
    with front().connection() as connection:
        connection.sendall(b"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")


# --- Predictions


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
def test_each_piece_of_a_stream_reaches_the_caller_before_the_model_sends_the_next(
    front: NewFront, stub: Stub, accept: str
) -> None:
    received = threading.Semaphore(0)

    def one_by_one(visit: Visit) -> None:
        visit.read_body()
        visit.send(head(200, {"Transfer-Encoding": "chunked"}))
        for number in range(10):
            visit.send(chunked(json.dumps({"id": number, "data": f"tok{number}"}).encode() + b"\n"))
            assert received.acquire(timeout=20)
        visit.send(b"0\r\n\r\n")

    stub.script("POST /v1/models/m:predict", one_by_one)
    here = front(ML_PLATFORM="kserve", KSERVE_ADDRESS=stub.address)
    pieces = []
    with here.session(apikey=KEY, Accept=accept) as session:
        body = {"model_name": "m", "inputs": {}}
        with session.post(f"{here.https}/v1/generate", json=body, stream=True, timeout=60) as response:
            for line in response.iter_lines(chunk_size=1):
                if piece := re.search(rb"tok\d", line):
                    pieces.append(piece[0].decode())
                    received.release()
    assert pieces == [f"tok{number}" for number in range(10)]


def test_a_sync_prediction_may_take_longer_than_a_second(front: NewFront) -> None:
    response = predict(front(), {"sleep": 1.5, "answer": 7})
    assert (response.status_code, response.json()["outputs"]) == (200, 7)


def test_nginx_hangs_up_on_the_agent_when_its_caller_hangs_up(front_of: NewFront, stub: Stub) -> None:
    here = front_of(stub.address)
    stub.script("POST /v1/predict", hangs)
    asked = threading.Event()
    stub.when_asked("POST /v1/predict", asked.set)
    with here.connection() as connection:
        connection.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
        assert asked.wait(20)
        assert not stub.hung_up.is_set()
    assert stub.hung_up.wait(20)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_is_not_sent_a_second_time_when_the_agent_breaks_off(
    front_of: NewFront, stub: Stub, method: str
) -> None:
    here = front_of(stub.address)
    stub.script(f"{method} /v1/predict", answers({}), resets_after_reading)
    assert send(here, method, "/v1/predict").status_code == 200
    assert send(here, method, "/v1/predict").status_code == 502
    assert stub.count(f"{method} /v1/predict") == 2


def test_nginx_uses_a_connection_to_the_agent_again(serve: Callable[..., Server], front_of: NewFront) -> None:
    proxy = Proxy(f"127.0.0.1:{serve('web').port}")
    here = front_of(proxy.address)
    for _ in range(5):
        assert send(here, "GET", "/live").status_code == 200
    assert proxy.connections == 1
    proxy.close()

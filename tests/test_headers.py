"""Response headers for browsers and proxies, and Django's deployment checks."""

import os
import re
import subprocess
import sys
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from tests.helpers.clients import caller
from tests.helpers.pages import documented_production
from tests.helpers.routes import admin_pages, routes
from tests.helpers.servers import ROOT

A_TASK = "/task/019a0000-0000-7000-8000-000000000000"


def check_deploy(**changes: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "ENV_FILE": os.devnull, **documented_production(), **changes},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_djangos_deployment_checks_have_nothing_to_say_of_the_documented_production() -> None:
    code, said = check_deploy()
    assert code == 0, said


@pytest.mark.parametrize(
    ("setting", "value", "check"),
    [
        ("SECURE_SSL_REDIRECT", "false", "security.W008"),
        ("SECURE_HSTS_SECONDS", "0", "security.W004"),
        ("SECURE_COOKIES", "false", "security.W012"),
        ("SECURE_PROXY_SSL_HEADER", "", "agent.W002"),
        ("SECRET_KEY", "short", "security.W009"),
        ("DEBUG", "true", "agent.E023"),
    ],
)
def test_and_it_has_where_one_of_them_is_missing(setting: str, value: str, check: str) -> None:
    code, said = check_deploy(**{setting: value})
    assert code != 0
    assert f"({check})" in said


@pytest.mark.parametrize(
    "route", [*routes("config.urls"), "GET /nowhere", "GET /live", "POST /v1/predict", "GET /static/x"]
)
def test_every_answer_says_that_nothing_runs_in_it(route: str) -> None:
    method, path = route.split(" ")
    response = Client().generic(method, path, b"{")
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["X-Frame-Options"] == "DENY"
    assert response["Referrer-Policy"] == "same-origin"
    assert "default-src 'none'" in response["Content-Security-Policy"]
    assert response["Cache-Control"] == "no-store"


def test_admin_pages_run_only_their_own_scripts() -> None:
    client = caller("staff")
    for path in admin_pages():
        response = client.get(path)
        if response.headers["Content-Type"].startswith("text/html") and response.content:
            directives = dict(part.split(" ", 1) for part in response["Content-Security-Policy"].split("; "))
            assert directives["script-src"] == "'self' 'unsafe-eval'"
            assert directives["object-src"] == directives["base-uri"] == directives["frame-ancestors"] == "'none'"
            assert not re.search(rb"<script(?![^>]*\ssrc=)[^>]*>\s*[^\s<]", response.content), path


def test_plain_http_is_redirected_except_for_the_clusters_probes(settings: Any) -> None:
    settings.SECURE_SSL_REDIRECT = True
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    plain, secure = Client(), Client(headers={"X-Forwarded-Proto": "https"})
    assert plain.get("/admin/login/")["Location"] == "https://testserver/admin/login/"
    assert plain.post("/v1/predict")["Location"] == "https://testserver/v1/predict"
    for path in ("/live", "/ready", "/metrics"):
        assert plain.get(path).status_code == 200, path
    assert plain.post("/u/x/upload").status_code == 404
    assert secure.get("/admin/login/").status_code == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/admin/login/", "/v1/docs", "/nowhere", "/v1/predict", "/async/v1/predict", A_TASK])
def test_the_redirect_to_https_keeps_the_method_and_the_query(path: str, method: str, settings: Any) -> None:
    settings.SECURE_SSL_REDIRECT = True
    response = Client().generic(method, path, b"{}", QUERY_STRING="a=1")
    assert (response.status_code, response.reason_phrase) == (308, "Permanent Redirect")
    assert response["Location"] == f"https://testserver{path}?a=1"


@pytest.mark.parametrize("way", ["the short way", "the ordinary way"])
def test_a_prediction_sent_over_plain_http_succeeds_after_the_redirect(way: str, settings: Any) -> None:
    settings.SECURE_SSL_REDIRECT = True
    if way == "the ordinary way":
        settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if "Shortcut" not in name]
    body = {"model_name": "iris", "inputs": {"answer": 7}}
    response = Client().post("/v1/predict", body, "application/json", follow=True)
    assert [status for _, status in response.redirect_chain] == [308]
    assert (response.status_code, response.json()["outputs"]) == (200, 7)


def test_hsts_is_sent_only_over_https(settings: Any) -> None:
    settings.SECURE_HSTS_SECONDS = 31536000
    assert Client().get("/live", secure=True)["Strict-Transport-Security"] == "max-age=31536000"
    assert "Strict-Transport-Security" not in Client().get("/live")


def test_cookies_are_for_this_site_and_not_for_scripts(settings: Any) -> None:
    settings.SESSION_COOKIE_SECURE = settings.CSRF_COOKIE_SECURE = True
    User.objects.create_superuser("op", password="a password")
    client = Client()
    client.get("/admin/login/", secure=True)
    client.post("/admin/login/", {"username": "op", "password": "a password"}, secure=True)
    session, csrf = client.cookies["sessionid"], client.cookies["csrftoken"]
    assert (session["httponly"], session["samesite"], session["secure"]) == (True, "Lax", True)
    assert (csrf["samesite"], csrf["secure"]) == ("Lax", True)


@pytest.mark.parametrize("path", ["/live", "/ready", "/openapi.json"])
def test_an_answer_says_its_length(client: Client, path: str) -> None:
    answer = client.get(path)
    assert int(answer["Content-Length"]) == len(answer.content)

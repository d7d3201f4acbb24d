"""Signing in to the admin: guesses are limited, and do not lock out others."""

from datetime import timedelta
from typing import Any

import pytest
from axes.models import AccessAttempt
from django.contrib.auth.models import User
from django.test import Client
from django.utils.timezone import now

PASSWORD = "a right password"


@pytest.fixture(autouse=True)
def _operator(settings: Any) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # quick
    AccessAttempt.objects.all().delete()
    User.objects.create_superuser("op", password=PASSWORD)


def sign_in(password: str = PASSWORD, username: str = "op", address: str = "10.0.0.1") -> int:
    """302: signed in; 200: the form again; 429: wait."""
    form = {"username": username, "password": password}
    return Client().post("/admin/login/", form, REMOTE_ADDR=address).status_code


def guess(times: int, **who: Any) -> list[int]:
    return [sign_in(f"guess {number}", **who) for number in range(times)]


def test_a_new_secret_key_signs_everybody_out(settings: Any) -> None:
    browser = Client()
    browser.post("/admin/login/", {"username": "op", "password": PASSWORD})
    assert browser.get("/admin/").status_code == 200
    settings.SECRET_KEY = "another key of fifty characters or more, 0123456789"
    answer = browser.get("/admin/")
    assert (answer.status_code, answer["Location"]) == (302, "/admin/login/?next=/admin/")


def test_after_ten_wrong_passwords_the_right_one_is_not_tried_either() -> None:
    assert set(guess(9)) == {200}
    assert guess(1) == [429]
    assert sign_in() == 429
    AccessAttempt.objects.update(attempt_time=now() - timedelta(minutes=16))
    assert sign_in() == 302


def test_others_sign_in_meanwhile() -> None:
    guess(10)
    User.objects.create_superuser("other", password=PASSWORD)
    assert sign_in(address="10.0.0.2") == 302
    assert sign_in(username="other") == 302


def test_a_sign_in_resets_the_guesses() -> None:
    guess(9)
    assert sign_in() == 302
    assert set(guess(9)) == {200}


def test_an_address_that_callers_make_up_does_not_count() -> None:
    for number in range(10):
        Client(headers={"X-Forwarded-For": f"10.1.0.{number}"}).post(
            "/admin/login/", {"username": "op", "password": "guess"}, REMOTE_ADDR="10.0.0.1"
        )
    assert sign_in() == 429


def test_no_password_is_kept() -> None:
    sign_in("a secret guess")
    assert "secret guess" not in str(list(AccessAttempt.objects.values()))


@pytest.mark.parametrize(
    "username", ["\0", "x" * 10_000, "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), ""]
)
def test_strange_names_are_no_defect(username: str) -> None:
    assert sign_in(username=username) == 200

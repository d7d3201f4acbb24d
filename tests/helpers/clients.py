"""HTTP clients, one for each kind of caller."""

from django.contrib.auth.models import User
from django.middleware.csrf import get_token
from django.test import Client, RequestFactory

KEYS = {
    "wrong key": "nobodys-key",
    "API key": "callers-key",
    "operator key": "operator-key",
    "record key": "record-key",
    "metrics key": "metrics-key",
}


def caller(kind: str) -> Client:
    """A client with the credentials of this kind of caller."""
    if kind in KEYS:
        return Client(enforce_csrf_checks=True, raise_request_exception=False, headers={"apikey": KEYS[kind]})
    if kind == "nobody":
        return Client(enforce_csrf_checks=True, raise_request_exception=False)
    is_staff = kind != "user who is not staff"
    token = get_token(RequestFactory().get("/"))
    headers = {} if "without" in kind else {"X-CSRFToken": token}
    client = Client(enforce_csrf_checks=True, raise_request_exception=False, headers=headers)
    client.force_login(User.objects.create(username=kind, is_staff=is_staff, is_superuser=is_staff))
    client.cookies["csrftoken"] = token
    return client

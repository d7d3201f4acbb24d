"""Whose name guesses at the admin's passwords are counted under."""

from typing import Any

from django.http import HttpRequest

MAX_CHARACTERS = 255
"""As many as the column has in which django-axes keeps it; no user's name is longer."""


def name_tried(request: HttpRequest, credentials: dict[str, Any] | None) -> str | None:
    """The user name of a sign-in, cut to the length of its column; None if it is missing."""
    name = (credentials or request.POST).get("username")
    return name and name[:MAX_CHARACTERS]

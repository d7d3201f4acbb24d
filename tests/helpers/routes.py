"""The routes of the agent, from Django's URL patterns."""

import re
from collections.abc import Iterator
from typing import Any

from django.urls import get_resolver
from django.urls.resolvers import URLPattern

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def patterns(urlconf: str) -> Iterator[tuple[str, URLPattern]]:
    """Every pattern of a urlconf, with its full path."""

    def walk(found: list[Any], prefix: str) -> Iterator[tuple[str, URLPattern]]:
        for pattern in found:
            path = prefix + str(pattern.pattern).lstrip("^")
            if isinstance(pattern, URLPattern):
                yield path, pattern
            else:
                yield from walk(pattern.url_patterns, path)

    yield from walk(get_resolver(urlconf).url_patterns, "/")


def routes(urlconf: str) -> list[str]:
    """`METHOD /path/{argument}` of everything but the admin."""
    found = set()
    for path, pattern in patterns(urlconf):
        if not path.startswith("/admin"):
            view = pattern.callback.view_class  # type: ignore[attr-defined]
            written = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", path)
            found |= {f"{method} {written}" for method in METHODS if hasattr(view, method.lower())}
    return sorted(found)


def documented_routes(urlconf: str) -> set[tuple[str, str]]:
    """(path, method) of every route but the admin's, with `{id}` for `{task_id}` as the documentation writes it."""
    split = [route.split(" ") for route in routes(urlconf)]
    return {(path.replace("{task_", "{"), method) for method, path in split}


def admin_pages() -> list[str]:
    """A path to each page of the admin, with arguments that match no object."""
    found = {
        re.sub(r"<(\w+):\w+>", lambda match: "999" if match[1] == "int" else "x", path)
        for path, _ in patterns("config.urls")
    }
    found = {
        re.sub(r"\(\?P<(\w+)>[^)]*\)\??|<\w+>", lambda match: "auth" if match[1] == "app_label" else "1", path)
        for path in found
    }
    return sorted({path.rstrip("$").removesuffix("/?") for path in found if path.startswith("/admin")})

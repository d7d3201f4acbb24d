"""How a task's inputs and outputs look on its page."""

import json
import re
from collections.abc import Iterator
from typing import Any

from django.utils.html import format_html
from django.utils.safestring import SafeString

SHOWN_CHARACTERS = 100_000
_URL = re.compile(r"https?://\S+$|data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+$")
_PICTURE = re.compile(r"^data:image/|\.(png|jpe?g|gif|webp)(\?|$)", re.IGNORECASE)


def json_block(value: Any) -> SafeString:
    """Indented JSON, cut after SHOWN_CHARACTERS."""
    if value is None:
        return SafeString("")
    text = json.dumps(value, indent=2, ensure_ascii=False)
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) > SHOWN_CHARACTERS:
        text = f"{text[:SHOWN_CHARACTERS]}\n… {len(text) - SHOWN_CHARACTERS} characters more"
    return format_html('<pre class="whitespace-pre-wrap break-words text-xs max-h-96 overflow-auto">{}</pre>', text)


def urls_in(value: Any) -> Iterator[str]:
    """Yields every web address and inline picture in the outputs, at any depth."""
    if isinstance(value, str) and _URL.match(value):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from urls_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from urls_in(inner)


def file_link(url: str) -> SafeString:
    """A picture or a link, without a Referer that would name this page to the other server."""
    if not _PICTURE.search(url):
        link = '<a href="{}" rel="noreferrer noopener" class="text-primary-600 underline block">{}</a>'
        return format_html(link, url, url)
    picture = format_html(
        '<img src="{}" alt="an output of the task" referrerpolicy="no-referrer" class="max-h-64 rounded">', url
    )
    if url.startswith("data:"):
        return picture
    return format_html('<a href="{}" rel="noreferrer noopener" class="inline-block m-1">{}</a>', url, picture)

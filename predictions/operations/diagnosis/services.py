"""Checks of the settings, the record service, the storage, the upload address and the platform."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import requests
from django.conf import settings
from django.core import checks
from django.db import DatabaseError

from platforms import Call, Health, Platform, PlatformError, get_platform
from platforms.health import ok, problem, warning
from predictions import uploads
from predictions.operations.diagnosis.formatting import because, check_disk, first_line
from predictions.operations.maintenance import count_unreported
from predictions.recorder import RecordUnavailable, get_recorder
from predictions.uploads import StorageUnavailable

ANSWER_SECONDS = 5.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def check_settings() -> Iterator[Health]:
    """Django's system checks, with those for a deployment in production."""
    every = checks.run_checks(include_deployment_checks=settings.PRODUCTION)
    found = [message for message in every if not message.is_silenced()]
    for message in found:
        found_so = problem if message.is_serious() else warning
        yield found_so(f"{message.msg} ({message.id})", message.hint or "See Django's documentation of this check.")
    if not found:
        yield ok(f"{settings.ENVIRONMENT}; the system checks find nothing")


def check_record_service() -> Iterator[Health]:
    recorder = get_recorder()
    yield recorder.check()
    if not recorder.remote:
        return
    try:
        unreported = count_unreported()
    except (RecordUnavailable, DatabaseError):  # the database's own check says so
        return
    if unreported:
        yield warning(f"it lacks {unreported} ended tasks", "`manage.py init_check` sends them again.")


def check_storage() -> Iterator[Health]:
    try:
        uploads.try_storage()
    except StorageUnavailable as error:
        yield problem(
            f"it takes no file: {first_line(error)}",
            "Check MEDIA_ROOT and its permissions, or AWS_BUCKET and its credentials.",
        )
        return
    where = f"the bucket {settings.AWS_BUCKET}" if settings.AWS_BUCKET else settings.MEDIA_ROOT
    yield ok(f"{where} takes files and deletes them")
    if not settings.AWS_BUCKET:
        yield from check_disk(Path(settings.MEDIA_ROOT))


def check_upload_address() -> Iterator[Health]:
    """Asks from this host. Models run elsewhere and may reach an address that this host does not, hence a warning."""
    platform = _platform()
    if isinstance(platform, Platform) and not platform.takes_upload_address:
        yield ok(f"not used: models on the {platform.name} platform get no upload address")
        return
    hint = "Set UPLOAD_WEBHOOK_ADDRESS to where models reach this agent's web (or webhook) process, and start that."
    try:
        host = urlsplit(settings.UPLOAD_BASE_URL).hostname
        with requests.Session() as session:
            session.trust_env = False  # no proxy
            live = f"{settings.UPLOAD_BASE_URL}/live"
            status = session.get(live, timeout=ANSWER_SECONDS, allow_redirects=False, stream=True).status_code
    except (requests.RequestException, ValueError) as error:
        yield warning(f"{settings.UPLOAD_BASE_URL} cannot be reached: {first_line(error)}", hint)
        return
    if status != 200:
        yield warning(f"{settings.UPLOAD_BASE_URL} answers {status}, not as this agent does", hint)
    elif host in LOOPBACK:
        yield warning(f"{settings.UPLOAD_BASE_URL} answers, but only to models on this host", hint)
    else:
        yield ok(f"{settings.UPLOAD_BASE_URL} answers")


def check_platform(model_name: str) -> Iterator[Health]:
    platform = _platform()
    if isinstance(platform, Health):
        yield platform
        return
    try:
        yield platform.check(model_name, Call(timeout_seconds=ANSWER_SECONDS, request_id="doctor"))
    except PlatformError as error:
        yield problem(because(error), "Are the platform's settings right, and can this host reach it?")


def _platform() -> Platform | Health:
    """This agent's platform, or the problem that keeps it from being set up."""
    try:
        return get_platform(settings.ML_PLATFORM, settings.PLATFORMS)
    except Exception as error:  # a local predictor's module may raise anything when it is imported
        return problem(f"it cannot be set up: {type(error).__name__}: {first_line(error)}", "See settings, above.")

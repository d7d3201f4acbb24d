"""Wrong settings, refused at start with an id and a hint."""

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error, register

from predictions.redis.checks import check_redis

NEEDED = {
    "kserve": ["KSERVE_ADDRESS"],
    "k8s": ["K8SPLUGIN_ADDRESS"],
    "replicate": ["REPLICATE_ADDRESS", "REPLICATE_APIKEY", "REPLICATE_MODEL_ID"],
    "runpod": ["RUNPOD_ADDRESS", "RUNPOD_APIKEY", "RUNPOD_MODEL_ID"],
}


@register()
def check_settings(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """The errors and warnings of config/environment.py, and those of settings that do not fit together."""
    wrong = [_error(*problem) for problem in settings.WRONG_SETTINGS]
    doubtful = [_warning(*problem) for problem in settings.DOUBTFUL_SETTINGS]
    return [*wrong, *doubtful, *_queue(), *check_redis(), *_platform(), *_access(), *_production()]


def _queue() -> Iterator[CheckMessage]:
    if not settings.TASK_TYPE_NAME.replace("-", "").replace("_", "").replace(".", "").isalnum():
        yield _error("E004", "TASK_TYPE_NAME is not a queue name", "Use letters, digits, '-', '_' and '.' only.")
    if settings.TASK_TYPE_NAME.endswith("-maintenance"):
        yield _error("E006", "TASK_TYPE_NAME ends in -maintenance", "Another agent's queue is called so.")
    if settings.SHUTDOWN_DELAY_CHOSEN and not settings.USE_LOCAL_REDIS:
        yield _warning(
            "W003",
            "SHUTDOWN_DELAY has no effect without USE_LOCAL_REDIS",
            "It is the wait before the queue of a Redis that ends with the pod is closed. If yours does, set "
            "USE_LOCAL_REDIS=true.",
        )


def _platform() -> Iterator[CheckMessage]:
    name = settings.ML_PLATFORM
    if name not in settings.PLATFORMS:
        known = ", ".join(settings.PLATFORMS)
        yield _error("E010", f"ML_PLATFORM={name!r} is not a platform", f"Choose one of: {known}.")
        return
    timeout = settings.PLATFORMS[name][1]["timeout_seconds"]
    if timeout > settings.TASK_TIMEOUT:
        yield _error(
            "E011",
            f"the {name} platform may take {timeout:g} s, longer than TASK_TIMEOUT ({settings.TASK_TIMEOUT} s)",
            "Raise TASK_TIMEOUT, or lower the platform's …_REQUEST_TIMEOUT.",
        )
    for variable in NEEDED.get(name, []):
        if not getattr(settings, variable):
            yield _error("E012", f"{variable} is empty", f"ML_PLATFORM={name} needs it.")
    if name == "local":
        yield from _predictor()


def _predictor() -> Iterator[CheckMessage]:
    module, colon, name = settings.LOCAL_PREDICTOR.partition(":")
    try:
        found = getattr(import_module(module), name, None) if colon else None
        if callable(found) or (isinstance(found, dict) and found and all(callable(one) for one in found.values())):
            return
        problem = "names no function, and no dict of functions"
    except ImportError as error:
        problem = f"cannot be imported: {error}"
    hint = "Write package.module:name of a function or of a dict of functions, such as examples:models."
    yield _error("E013", f"LOCAL_PREDICTOR={settings.LOCAL_PREDICTOR!r} {problem}", hint)


def _access() -> Iterator[CheckMessage]:
    if settings.API_KEYS or settings.DEBUG or settings.ALLOW_ANONYMOUS:
        return
    hint = "Set API_KEYS=key1,key2; or ALLOW_ANONYMOUS=true if everyone who reaches the port may call."
    if settings.PRODUCTION:
        yield _error("E020", "there are no API_KEYS, so all calls would be refused", hint)
    elif settings.ROOT_URLCONF != "webhooks.urls":  # whose clients send WEBHOOK_APIKEY
        yield _warning("W005", "there are no API_KEYS, so every call is answered 401", hint)


def _production() -> Iterator[CheckMessage]:
    if not settings.PRODUCTION:
        return
    if settings.SECRET_KEY == settings.INSECURE_SECRET_KEY:
        yield _error("E021", "SECRET_KEY is the default in production", "Set a random text of 50 characters or more.")
    if not settings.ALLOWED_HOSTS:
        yield _error("E022", "ALLOWED_HOSTS is empty in production", "Set the host names that callers use.")
    if not settings.DATABASE_CHOSEN:
        yield _error(
            "E024",
            "DATABASE_URL is empty in production",
            "Set DATABASE_URL=postgres://user:password@host/name; or sqlite:////path/to/file, which is enough for a "
            "small agent on one machine.",
        )
    if settings.DEBUG:
        yield _error("E023", "DEBUG is on in production", "Set DEBUG=false: it shows tracebacks.")
    if settings.SECURE_SSL_REDIRECT and not settings.SECURE_PROXY_SSL_HEADER:
        yield _warning(
            "W002",
            "SECURE_SSL_REDIRECT is on without SECURE_PROXY_SSL_HEADER",
            "The proxy in front speaks plain HTTP with this process. Without the header that tells how its caller "
            "connected, such as X-Forwarded-Proto, the agent redirects every request without end.",
        )
    if not settings.WEBHOOK_APIKEY and settings.WEBHOOK_SERVER_ADDRESS:
        yield _warning(
            "W001",
            "WEBHOOK_SERVER_ADDRESS is set without WEBHOOK_APIKEY",
            "A record service of this kind refuses clients without its key.",
        )


def _error(number: str, message: str, hint: str) -> Error:
    return Error(message, hint=hint, id=f"agent.{number}")


def _warning(number: str, message: str, hint: str) -> checks.Warning:
    return checks.Warning(message, hint=hint, id=f"agent.{number}")

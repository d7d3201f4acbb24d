"""How log lines look: one JSON object a line in production, readable text in development."""

import json
import logging
import logging.config
import sys
from datetime import UTC, datetime
from typing import Any

from predictions.telemetry.log_context import log_context

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(settings: dict[str, Any]) -> None:
    """Django's LOGGING_CONFIG hook. `settings`: {"level": name, "json": bool}."""
    formatter = "config.logging.JSONFormatter" if settings["json"] else "config.logging.TextFormatter"
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"()": formatter}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "stream": sys.stderr}},
            "root": {"handlers": ["stderr"], "level": settings["level"]},
            "loggers": {
                "rq": {"level": "WARNING"},
                "rq.worker": {"level": "WARNING"},
                "urllib3": {"level": "ERROR"},  # platforms could fill the log with malformed headers
                # Whatever level is chosen: at DEBUG it writes whole requests with what signs them.
                "botocore": {"level": "WARNING"},
                "django.request": {"level": "CRITICAL"},
                "django.security.DisallowedHost": {"level": "CRITICAL"},  # any caller could fill the log
            },
        }
    )


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """The fields of a line other than its message: the ids of its request or task, and `extra`."""
    extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    return {**log_context(), **extra}


class JSONFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        line = f"{time} {record.levelname:<7} {record.name}: {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line

"""`manage.py version`: the version of the agent, of Python and of Django."""

import platform
from typing import Any

import django
from django.conf import settings

from predictions.management.output import AgentCommand


class Command(AgentCommand):
    help = "Shows the version of the agent, of Python and of Django."
    examples = """\
  manage.py version
  manage.py version --json               {"version", "python", "django"}"""
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        versions = {"version": settings.VERSION, "python": platform.python_version(), "django": django.get_version()}
        self.answer(versions, "serving-agent {version} (Python {python}, Django {django})".format(**versions))

"""The WSGI application that gunicorn serves; wrong settings stop it here, before the first request."""

import os
import sys
from io import StringIO

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

import django
from django.core.management import call_command
from django.core.management.base import SystemCheckError

DO_NOT_RESTART = 4
"""The exit code of a worker after which gunicorn ends as well, instead of starting another."""

django.setup()
from predictions.api.shortcut import ShortcutHandler  # noqa: E402  (it needs the settings)

application = ShortcutHandler()
try:
    call_command("check", fail_level="ERROR", stdout=StringIO())
except SystemCheckError as error:
    sys.stderr.write(f"{error}\n")
    sys.exit(DO_NOT_RESTART)

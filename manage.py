#!/usr/bin/env python
"""Django's command line for the serving agent: `python manage.py help` lists the commands."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    try:
        import django
        from django.core.management import execute_from_command_line, load_command_class
    except ImportError as error:
        raise SystemExit(
            "Django is not installed here: run scripts/run, or activate the virtual environment "
            "(. .venv/bin/activate) and install requirements.lock."
        ) from error
    if sys.argv[1:2] == ["version"]:  # Django would show its own version instead
        django.setup()
        load_command_class("predictions", "version").run_from_argv(sys.argv)
    else:
        execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()

"""The WSGI application that gunicorn serves; wrong settings stop it here, before the first request."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

from django.core.management import call_command
from django.core.wsgi import get_wsgi_application

application = get_wsgi_application()
call_command("check", fail_level="ERROR", verbosity=0)

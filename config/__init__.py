"""What differs between deployments: settings, routes, gunicorn, logging."""

__version__ = "0.2.0"

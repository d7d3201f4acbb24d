"""Every environment variable the agent knows, read here and nowhere else (README's settings table follows it)."""

import os
import re
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import environ
from django.core.exceptions import ImproperlyConfigured
from django.urls import reverse_lazy

BASE_DIR = Path(__file__).resolve().parent.parent
VAR_DIR = BASE_DIR / "var"

env = environ.Env()
env.read_env(os.environ.get("ENV_FILE") or BASE_DIR / ".env")


def _names(variable: str) -> list[str]:
    """A comma-separated list without blanks or empty members."""
    return [name.strip() for name in env.list(variable, default=[]) if name.strip()]


def _seconds(variable: str, default: str) -> float:
    """A duration such as `48h`, `30m`, `90s` or `12.5` (seconds), in seconds."""
    text = env.str(variable, default=default).strip()
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text)
    if match is None:
        raise ImproperlyConfigured(f"{variable}={text!r} is not a duration: write 90s, 30m, 48h or 2d.")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


# --- What kind of deployment this is
ENVIRONMENT = env.str("ENVIRONMENT", default="development")
PRODUCTION = ENVIRONMENT == "production"
DEBUG = env.bool("DEBUG", default=False)
INSECURE_SECRET_KEY = "only-for-development-" + "x" * 40
SECRET_KEY = env.str("SECRET_KEY", default="") or INSECURE_SECRET_KEY
ALLOWED_HOSTS = _names("ALLOWED_HOSTS") or ([] if PRODUCTION else ["*"])
HTTP_SERVER_ADDRESS = env.str("HTTP_SERVER_ADDRESS", default="0.0.0.0:8000")

# --- Who may call
API_KEYS = _names("API_KEYS")
OPERATOR_KEYS = _names("OPERATOR_KEYS")
METRICS_KEY = env.str("METRICS_KEY", default="")
ALLOW_ANONYMOUS = env.bool("ALLOW_ANONYMOUS", default=False)
MAX_REQUEST_BODY = env.int("MAX_REQUEST_BODY", default=20 * 1024 * 1024)
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_REQUEST_BODY

# --- The queue and its workers
REDIS_ADDRESS = env.str("REDIS_ADDRESS", default="")
REDIS_CLUSTER_MODE = env.bool("REDIS_CLUSTER_MODE", default=False)
REDIS_PASSWORD = env.str("REDIS_PASSWORD", default="")
REDIS_TLS = env.bool("REDIS_TLS", default=False)
REDIS_SENTINELS = _names("REDIS_SENTINELS")
REDIS_SENTINEL_MASTER = env.str("REDIS_SENTINEL_MASTER", default="")
USE_LOCAL_REDIS = env.bool("USE_LOCAL_REDIS", default=False)
EMBEDDED_REDIS_DIR = VAR_DIR / "redis"
WORKER_CONCURRENCY = env.int("WORKER_CONCURRENCY", default=8)
WORKER_METRICS_ADDRESS = env.str("WORKER_METRICS_ADDRESS", default="")
MAX_QUEUE_SIZE = env.int("MAX_QUEUE_SIZE", default=30)
TASK_TIMEOUT = env.int("TASK_TIMEOUT", default=320)
TASK_TYPE_NAME = env.str("TASK_TYPE_NAME", default="default")
TASK_RETENTION = timedelta(seconds=_seconds("TASK_RETENTION", "48h"))
MODEL_NAME = env.str("MODEL_NAME", default="")
SHUTDOWN_DELAY = _seconds("SHUTDOWN_DELAY", "2")
SHUTDOWN_DELAY_CHOSEN = "SHUTDOWN_DELAY" in os.environ
ENABLE_PERIODIC_CHECK = env.bool("ENABLE_PERIODIC_CHECK", default=True)

# --- The record service
WEBHOOK_SERVER_ADDRESS = env.str("WEBHOOK_SERVER_ADDRESS", default="")
WEBHOOK_APIKEY = env.str("WEBHOOK_APIKEY", default="")
UPLOAD_WEBHOOK_ADDRESS = env.str("UPLOAD_WEBHOOK_ADDRESS", default="")
MAX_UPLOAD_SIZE = env.int("MAX_UPLOAD_SIZE", default=100 * 1024 * 1024)


def _own_address() -> str:
    """This agent as another host reaches it, as far as that can be known from here."""
    host, _, port = HTTP_SERVER_ADDRESS.rpartition(":")
    return f"{socket.gethostname() if host in ('', '0.0.0.0', '[::]') else host}:{port}"


UPLOAD_BASE_URL = (UPLOAD_WEBHOOK_ADDRESS or _own_address()).rstrip("/")
if "://" not in UPLOAD_BASE_URL:
    UPLOAD_BASE_URL = f"http://{UPLOAD_BASE_URL}"
TASK_RECORDER = "webhooks.client.HttpRecorder" if WEBHOOK_SERVER_ADDRESS else "predictions.recorder.Nobody"

# --- The platforms: each entry of PLATFORMS is a class of `platforms` and what its constructor takes
ML_PLATFORM = {"k8s-plugin": "k8s"}.get(_platform := env.str("ML_PLATFORM", default="local").strip().lower(), _platform)
LOCAL_PREDICTOR = env.str("LOCAL_PREDICTOR", default="examples.iris:predict")
KSERVE_VERSION = env.str("KSERVE_VERSION", default="0.13.1")
KSERVE_ADDRESS = env.str("KSERVE_ADDRESS", default="")
KSERVE_CUSTOM_DOMAIN = env.str("KSERVE_CUSTOM_DOMAIN", default="example.com")
KSERVE_NAMESPACE = env.str("KSERVE_NAMESPACE", default="default")
KSERVE_HOST_TEMPLATE = env.str("KSERVE_HOST_TEMPLATE", default="{model}.{namespace}.{domain}")
KSERVE_REQUEST_TIMEOUT = env.float("KSERVE_REQUEST_TIMEOUT", default=180)
K8SPLUGIN_ADDRESS = env.str("K8SPLUGIN_ADDRESS", default="")
K8SPLUGIN_REQUEST_TIMEOUT = env.float("K8SPLUGIN_REQUEST_TIMEOUT", default=180)
REPLICATE_ADDRESS = env.str("REPLICATE_ADDRESS", default="https://api.replicate.com/v1/predictions")
REPLICATE_APIKEY = env.str("REPLICATE_APIKEY", default="")
REPLICATE_MODEL_ID = env.str("REPLICATE_MODEL_ID", default="")
REPLICATE_REQUEST_TIMEOUT = env.float("REPLICATE_REQUEST_TIMEOUT", default=180)
RUNPOD_ADDRESS = env.str("RUNPOD_ADDRESS", default="https://api.runpod.ai/v2")
RUNPOD_APIKEY = env.str("RUNPOD_APIKEY", default="")
RUNPOD_MODEL_ID = env.str("RUNPOD_MODEL_ID", default="")
RUNPOD_REQUEST_TIMEOUT = env.float("RUNPOD_REQUEST_TIMEOUT", default=180)
MAX_RESPONSE_BODY = env.int("MAX_RESPONSE_BODY", default=50 * 1024 * 1024)

PLATFORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "local": ("platforms.local.Local", {"predictor": LOCAL_PREDICTOR, "timeout_seconds": float(TASK_TIMEOUT)}),
    "kserve": (
        "platforms.kserve.KServe",
        {
            "address": KSERVE_ADDRESS,
            "version": KSERVE_VERSION,
            "domain": KSERVE_CUSTOM_DOMAIN,
            "namespace": KSERVE_NAMESPACE,
            "host_template": KSERVE_HOST_TEMPLATE,
            "timeout_seconds": KSERVE_REQUEST_TIMEOUT,
            "max_response_bytes": MAX_RESPONSE_BODY,
        },
    ),
    "k8s": (
        "platforms.k8s.K8s",
        {
            "address": K8SPLUGIN_ADDRESS,
            "timeout_seconds": K8SPLUGIN_REQUEST_TIMEOUT,
            "max_response_bytes": MAX_RESPONSE_BODY,
        },
    ),
    "replicate": (
        "platforms.replicate.Replicate",
        {
            "address": REPLICATE_ADDRESS,
            "api_key": REPLICATE_APIKEY,
            "model": REPLICATE_MODEL_ID,
            # Its streams are on hosts such as stream.replicate.com and stream-b.svc.ric1.c.replicate.net.
            "stream_domains": ("replicate.com", "replicate.net"),
            "timeout_seconds": REPLICATE_REQUEST_TIMEOUT,
            "max_response_bytes": MAX_RESPONSE_BODY,
        },
    ),
    "runpod": (
        "platforms.runpod.RunPod",
        {
            "address": RUNPOD_ADDRESS,
            "api_key": RUNPOD_APIKEY,
            "endpoint": RUNPOD_MODEL_ID,
            "timeout_seconds": RUNPOD_REQUEST_TIMEOUT,
            "max_response_bytes": MAX_RESPONSE_BODY,
        },
    ),
}

# --- Django itself
INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "predictions",
    "webhooks",
    "django_rq",
]
MIDDLEWARE = [
    "predictions.api.requests.RequestMiddleware",
    "predictions.api.health.ProbeMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
# The Procfile's `webhook` process serves the record service alone: ROOT_URLCONF=webhooks.urls
ROOT_URLCONF = env.str("ROOT_URLCONF", default="config.urls")
WSGI_APPLICATION = "config.wsgi.application"
APPEND_SLASH = False
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

DATABASE_URL = env.str("DATABASE_URL", default="")
if not DATABASE_URL:
    VAR_DIR.mkdir(exist_ok=True)
    DATABASE_URL = f"sqlite:///{VAR_DIR / 'agent.sqlite3'}"
DATABASE_POOL_SIZE = env.int("DATABASE_POOL_SIZE", default=20)
DATABASES: dict[str, dict[str, Any]] = {"default": env.db_url_config(DATABASE_URL)}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # Readers never wait for writers (WAL), and a writer waits its turn at BEGIN instead of failing in the middle.
    DATABASES["default"].setdefault("OPTIONS", {}).update(
        transaction_mode="IMMEDIATE",
        timeout=30,
        init_command="PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA busy_timeout=30000;",
    )
    DATABASES["default"]["CONN_MAX_AGE"] = None
    DATABASES["default"]["TEST"] = {"NAME": VAR_DIR / "test.sqlite3"}  # a file: memory is not shared by processes
else:
    # A connection is borrowed for a query, not for a prediction: twenty carry thousands that wait.
    DATABASES["default"].setdefault("OPTIONS", {})["pool"] = {
        "min_size": 0,
        "max_size": DATABASE_POOL_SIZE,
        "timeout": 10,
        "max_idle": 60,
    }
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = True  # after a restart of the server the pool holds dead ones
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("MinimumLengthValidator", "CommonPasswordValidator", "NumericPasswordValidator")
]
LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "/static/"
STATIC_ROOT = env.str("STATIC_ROOT", default="") or str(BASE_DIR / "staticfiles")
WHITENOISE_USE_FINDERS = not PRODUCTION
MEDIA_ROOT = env.str("MEDIA_ROOT", default="") or str(VAR_DIR / "media")
MEDIA_URL = "/media/"
AWS_BUCKET = env.str("AWS_BUCKET", default="")
STORAGES: dict[str, dict[str, Any]] = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
if AWS_BUCKET:
    STORAGES["default"] = {
        "BACKEND": "webhooks.storage.SharedS3Storage",
        "OPTIONS": {
            "bucket_name": AWS_BUCKET,
            "access_key": env.str("AWS_ACCESS_KEY_ID", default="") or None,
            "secret_key": env.str("AWS_SECRET_ACCESS_KEY", default="") or None,
            "region_name": env.str("AWS_REGION", default="") or None,
            "endpoint_url": env.str("AWS_ENDPOINT_URL", default="") or None,
            "addressing_style": "path",
            "signature_version": "s3v4",
            "file_overwrite": True,  # names are new ones; asking whether one exists would need another permission
            "querystring_auth": True,
            "querystring_expire": int(min(TASK_RETENTION, timedelta(days=7)).total_seconds()),
            "object_parameters": {"ContentDisposition": "attachment"},
        },
    }

SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = env.bool("SECURE_COOKIES", default=PRODUCTION)
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
CSRF_TRUSTED_ORIGINS = _names("CSRF_TRUSTED_ORIGINS")
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["predictions.api.authentication.KeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["predictions.api.authentication.MayCall"],
    "DEFAULT_PARSER_CLASSES": ["predictions.api.requests.JSONBodyParser"],
    "DEFAULT_RENDERER_CLASSES": ["predictions.api.requests.JSONAnswer"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "predictions.api.requests.AlwaysJSON",
    "EXCEPTION_HANDLER": "predictions.api.errors.answer",
    "UNAUTHENTICATED_USER": None,
}

# --- RQ: its keys share one hash slot on a cluster; the name must stand before anything imports rq
os.environ.setdefault("RQ_KEY_PREFIX", "{rq}" if REDIS_CLUSTER_MODE else "rq")
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    # django-rq takes its connection from here, so every part of the process shares one pool.
    "rq": {"BACKEND": "predictions.queue.connections.SharedConnection"},
}
MAINTENANCE_QUEUE = f"{TASK_TYPE_NAME}-maintenance"
RQ_QUEUES = {
    name: {"USE_REDIS_CACHE": "rq", "SERIALIZER": "rq.serializers.JSONSerializer", "DEFAULT_TIMEOUT": TASK_TIMEOUT}
    for name in (TASK_TYPE_NAME, MAINTENANCE_QUEUE)
}
RQ = {"WORKER_CLASS": "predictions.queue.worker.ThreadWorker", "COMMIT_MODE": "auto"}

# --- Counters: a file per process, added up by /metrics; named before anything imports prometheus_client
METRICS_DIR = env.str("PROMETHEUS_MULTIPROC_DIR", default="") or str(VAR_DIR / "metrics")
try:
    Path(METRICS_DIR).mkdir(parents=True, exist_ok=True)
except OSError as error:
    raise ImproperlyConfigured(
        f"The counters have no place: {error}. Set PROMETHEUS_MULTIPROC_DIR to a directory that can be written."
    ) from error
os.environ["PROMETHEUS_MULTIPROC_DIR"] = METRICS_DIR

# --- Traces: OpenTelemetry's own variables, which its exporter reads itself; here is only whether there are any
TRACES_EXPORTER = env.str("OTEL_TRACES_EXPORTER", default="").strip().lower() or "otlp"
TRACING_SERVICE_NAME = env.str("OTEL_SERVICE_NAME", default="") or "serving-agent"
_traces_endpoint = env.str("OTEL_EXPORTER_OTLP_ENDPOINT", default="") or env.str(
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", default=""
)
TRACING = (
    TRACES_EXPORTER != "none"
    and bool(_traces_endpoint or TRACES_EXPORTER == "console")
    and not env.bool("OTEL_SDK_DISABLED", default=False)
)

LOGGING_CONFIG = "config.logging.configure"
LOG_LEVEL = env.str("LOG_LEVEL", default="INFO").upper()
LOGGING = {"level": LOG_LEVEL, "json": PRODUCTION}

UNFOLD = {
    "SITE_TITLE": "Serving agent",
    "SITE_HEADER": "Serving agent",
    "SITE_SUBHEADER": f"{ML_PLATFORM} · queue {TASK_TYPE_NAME}",
    "SITE_SYMBOL": "hub",
    "SHOW_VIEW_ON_SITE": False,
    "DASHBOARD_CALLBACK": "predictions.dashboard.context",
    "SIDEBAR": {
        "show_search": False,
        "show_all_applications": False,
        "navigation": [
            {
                "title": "Serving",
                "items": [
                    {"title": "Dashboard", "icon": "monitoring", "link": reverse_lazy("admin:index")},
                    {
                        "title": "Tasks",
                        "icon": "list_alt",
                        "link": reverse_lazy("admin:predictions_task_changelist"),
                    },
                    {
                        "title": "Queues and workers",
                        "icon": "lan",
                        "link": reverse_lazy("admin:django_rq_dashboard_changelist"),
                    },
                ],
            },
            {
                "title": "People",
                "items": [
                    {"title": "Users", "icon": "person", "link": reverse_lazy("admin:auth_user_changelist")},
                    {"title": "Groups", "icon": "group", "link": reverse_lazy("admin:auth_group_changelist")},
                    {"title": "History", "icon": "history", "link": reverse_lazy("admin:admin_logentry_changelist")},
                ],
            },
        ],
    },
}
SILENCED_SYSTEM_CHECKS: list[str] = []

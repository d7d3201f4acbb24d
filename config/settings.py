"""Every environment variable the agent knows, read here and nowhere else (docs/reference.md lists them)."""

import os
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from config import __version__
from config.environment import Environment

BASE_DIR = Path(__file__).resolve().parent.parent
VAR_DIR = BASE_DIR / "var"
VERSION = __version__

env = Environment(os.environ)
env.read_file(Path(os.environ.get("ENV_FILE") or BASE_DIR / ".env"), must_exist=bool(os.environ.get("ENV_FILE")))

# --- Variables of the Go original's webhook service (docs/from-the-original.md)
env.rename("DB_SOURCE", "DATABASE_URL")
env.rename("SECRET_APIKEY", "WEBHOOK_APIKEY")
env.warn_if_set("REDIS_KEY_DURATION", "Set TASK_RETENTION: how long ended tasks are kept, in the database.")
env.warn_if_set("MIGRATION_URL", "Leave it out: `manage.py migrate` brings the migrations along.")
env.warn_if_set("AWS_S3_USE_ACCELERATE", "Leave it out: uploads go to the bucket's regional address.")

# --- What kind of deployment this is
ENVIRONMENT = env.choice("ENVIRONMENT", default="development", among=("development", "production"))
PRODUCTION = ENVIRONMENT == "production"
DEBUG = env.boolean("DEBUG", default=False)
INSECURE_SECRET_KEY = "only-for-development-" + "x" * 40
SECRET_KEY = env.text("SECRET_KEY") or INSECURE_SECRET_KEY
ALLOWED_HOSTS = env.names("ALLOWED_HOSTS") or ([] if PRODUCTION else ["*"])
HTTP_SERVER_ADDRESS = env.address("HTTP_SERVER_ADDRESS", default="0.0.0.0:8000", to_listen=True)
WEB_CONCURRENCY = env.integer("WEB_CONCURRENCY", default=2)

# --- Who may call
API_KEYS = env.names("API_KEYS")
OPERATOR_KEYS = env.names("OPERATOR_KEYS")
METRICS_KEY = env.text("METRICS_KEY")
ALLOW_ANONYMOUS = env.boolean("ALLOW_ANONYMOUS", default=False)
API_DOCS = env.boolean("API_DOCS", default=True)
MAX_REQUEST_BODY = env.integer("MAX_REQUEST_BODY", default=20 * 1024 * 1024)
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_REQUEST_BODY
DATA_UPLOAD_MAX_NUMBER_FILES = 1000

# --- The queue and its workers
REDIS_ADDRESS = env.text("REDIS_ADDRESS")
REDIS_CLUSTER_MODE = env.boolean("REDIS_CLUSTER_MODE", default=False)
REDIS_PASSWORD = env.text("REDIS_PASSWORD")
REDIS_TLS = env.boolean("REDIS_TLS", default=False)
REDIS_TLS_CA_FILE = env.text("REDIS_TLS_CA_FILE")
REDIS_TLS_CERT_FILE = env.text("REDIS_TLS_CERT_FILE")
REDIS_TLS_KEY_FILE = env.text("REDIS_TLS_KEY_FILE")
REDIS_SENTINELS = env.names("REDIS_SENTINELS")
REDIS_SENTINEL_MASTER = env.text("REDIS_SENTINEL_MASTER")
REDIS_SENTINEL_PASSWORD = env.text("REDIS_SENTINEL_PASSWORD")
USE_LOCAL_REDIS = env.boolean("USE_LOCAL_REDIS", default=False)
EMBEDDED_REDIS_DIR = VAR_DIR / "redis"
WORKER_CONCURRENCY = env.integer("WORKER_CONCURRENCY", default=8)
WORKER_CPU_AFFINITY = env.boolean("WORKER_CPU_AFFINITY", default=True)
WORKER_METRICS_ADDRESS = env.address("WORKER_METRICS_ADDRESS", to_listen=True)
MAX_QUEUE_SIZE = env.integer("MAX_QUEUE_SIZE", default=30)
TASK_TIMEOUT = env.integer("TASK_TIMEOUT", default=320)
TASK_TYPE_NAME = env.text("TASK_TYPE_NAME", default="default")
TASK_RETENTION = timedelta(seconds=env.seconds("TASK_RETENTION", default="48h", above=0))
MODEL_NAME = env.text("MODEL_NAME")
WORKER_SHUTDOWN_TIMEOUT = env.seconds("WORKER_SHUTDOWN_TIMEOUT", default=str(TASK_TIMEOUT))
ON_DISCONNECT = env.choice("ON_DISCONNECT", default="cancel", among=("cancel", "finish"))
SHUTDOWN_DELAY = env.seconds("SHUTDOWN_DELAY", default="2")
SHUTDOWN_DELAY_CHOSEN = env.has("SHUTDOWN_DELAY")
ENABLE_PERIODIC_CHECK = env.boolean("ENABLE_PERIODIC_CHECK", default=True)

# --- The record service
WEBHOOK_SERVER_ADDRESS = env.url("WEBHOOK_SERVER_ADDRESS", or_address=True)
WEBHOOK_APIKEY = env.text("WEBHOOK_APIKEY")
UPLOAD_WEBHOOK_ADDRESS = env.url("UPLOAD_WEBHOOK_ADDRESS", or_address=True)
MAX_UPLOAD_SIZE = env.integer("MAX_UPLOAD_SIZE", default=100 * 1024 * 1024)


def _own_address() -> str:
    """This agent as another host reaches it, as far as that can be known from here."""
    host, _, port = HTTP_SERVER_ADDRESS.rpartition(":")
    return f"{socket.gethostname() if host in ('', '0.0.0.0', '[::]') else host}:{port}"


UPLOAD_BASE_URL = (UPLOAD_WEBHOOK_ADDRESS or _own_address()).rstrip("/")
if "://" not in UPLOAD_BASE_URL:
    UPLOAD_BASE_URL = f"http://{UPLOAD_BASE_URL}"
TASK_RECORDER = "webhooks.client.HttpRecorder" if WEBHOOK_SERVER_ADDRESS else "predictions.recorder.Nobody"

# --- The platforms: each entry of PLATFORMS is a class of `platforms` and its constructor's arguments
ML_PLATFORM = {"k8s-plugin": "k8s"}.get(_platform := env.text("ML_PLATFORM", default="local").lower(), _platform)
LOCAL_PREDICTOR = env.text("LOCAL_PREDICTOR", default="examples:models")
KSERVE_VERSION = env.text(
    "KSERVE_VERSION", default="0.13.1", pattern=r"v?\d+(\.\d+)*\S*", hint="Write a version, such as 0.13.1."
)
KSERVE_ADDRESS = env.address("KSERVE_ADDRESS")
KSERVE_CUSTOM_DOMAIN = env.address("KSERVE_CUSTOM_DOMAIN", default="example.com")
KSERVE_NAMESPACE = env.text(
    "KSERVE_NAMESPACE",
    default="default",
    pattern=r"[a-z0-9]([a-z0-9-]*[a-z0-9])?",
    hint="Write a Kubernetes namespace.",
)
KSERVE_HOST_TEMPLATE = env.template(
    "KSERVE_HOST_TEMPLATE", default="{model}.{namespace}.{domain}", fields=("model", "namespace", "domain")
)
KSERVE_REQUEST_TIMEOUT = env.seconds("KSERVE_REQUEST_TIMEOUT", default="180", above=0)
K8SPLUGIN_ADDRESS = env.address("K8SPLUGIN_ADDRESS")
K8SPLUGIN_REQUEST_TIMEOUT = env.seconds("K8SPLUGIN_REQUEST_TIMEOUT", default="180", above=0)
REPLICATE_ADDRESS = env.url("REPLICATE_ADDRESS", default="https://api.replicate.com/v1/predictions")
REPLICATE_APIKEY = env.text("REPLICATE_APIKEY")
REPLICATE_MODEL_ID = env.text("REPLICATE_MODEL_ID")
REPLICATE_REQUEST_TIMEOUT = env.seconds("REPLICATE_REQUEST_TIMEOUT", default="180", above=0)
RUNPOD_ADDRESS = env.url("RUNPOD_ADDRESS", default="https://api.runpod.ai/v2")
RUNPOD_APIKEY = env.text("RUNPOD_APIKEY")
RUNPOD_MODEL_ID = env.text("RUNPOD_MODEL_ID")
RUNPOD_REQUEST_TIMEOUT = env.seconds("RUNPOD_REQUEST_TIMEOUT", default="180", above=0)
MAX_RESPONSE_BODY = env.integer("MAX_RESPONSE_BODY", default=50 * 1024 * 1024)
PLATFORM_OUTPUTS = env.choice("PLATFORM_OUTPUTS", default="plain", among=("plain", "wrapped"))

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
            "wrap_outputs": PLATFORM_OUTPUTS == "wrapped",
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
            "wrap_outputs": PLATFORM_OUTPUTS == "wrapped",
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
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "predictions",
    "webhooks",
    "django_rq",
    "axes",
]
MIDDLEWARE = [
    "predictions.api.requests.TrailingSlashMiddleware",
    "predictions.api.requests.HTTPSRedirectMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "predictions.api.requests.HeadersMiddleware",
    "predictions.api.requests.RequestMiddleware",
    "predictions.api.health.ProbeMiddleware",
    "django.middleware.common.CommonMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "axes.middleware.AxesMiddleware",
]
# The Procfile's `webhook` process serves the record service alone: ROOT_URLCONF=webhooks.urls
ROOT_URLCONF = env.choice("ROOT_URLCONF", default="config.urls", among=("config.urls", "webhooks.urls"))
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

DATABASE_CHOSEN = env.has("DATABASE_URL")
if not DATABASE_CHOSEN:
    env.make_directory(VAR_DIR, "Set DATABASE_URL, or let this user write there.")
DATABASE_POOL_SIZE = env.integer("DATABASE_POOL_SIZE", default=20)
DATABASE_PREPARED_STATEMENTS = env.boolean("DATABASE_PREPARED_STATEMENTS", default=True)
DATABASE_TIMEOUT = env.seconds("DATABASE_TIMEOUT", default="10", above=0)
DATABASES = {"default": env.database("DATABASE_URL", default=f"sqlite:///{VAR_DIR / 'agent.sqlite3'}")}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # Readers never wait for writers (WAL), and a writer waits its turn at BEGIN instead of failing in the middle.
    DATABASES["default"]["ENGINE"] = "predictions.database.sqlite3"
    DATABASES["default"].setdefault("OPTIONS", {}).update(
        transaction_mode="IMMEDIATE",
        timeout=30,
        init_command="PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    )
    # The tests' database is a file in the same directory: processes do not share memory.
    DATABASES["default"]["TEST"] = {"NAME": Path(DATABASES["default"]["NAME"]).with_name("test.sqlite3")}
else:
    DATABASES["default"].setdefault("OPTIONS", {}).update(
        connect_timeout=5,
        # A server whose machine is gone says nothing at all.
        keepalives_idle=15,
        keepalives_interval=5,
        keepalives_count=3,
        tcp_user_timeout=30_000,
        # A connection is borrowed for a query, not for a prediction: twenty carry thousands that wait.
        pool={
            "min_size": 0,
            "max_size": DATABASE_POOL_SIZE,
            "timeout": DATABASE_TIMEOUT / 2,  # outlasts a restart; after a longer outage callers get a 503
            "max_idle": 60,
            "reconnect_timeout": 5,  # then the next request tries again and finds a recovered server
        },
    )
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = True  # after a restart of the server the pool holds dead ones
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

LOGIN_URL = "/admin/login/"
LOGIN_REDIRECT_URL = "/admin/"
# Ten wrong passwords for a name from an address, and that address has to wait; others sign in as before.
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AXES_FAILURE_LIMIT = 10
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_USERNAME_CALLABLE = "predictions.admin.sign_in.name_tried"
AXES_RESET_ON_SUCCESS = True
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_DISABLE_ACCESS_LOG = True
AXES_ENABLE_ADMIN = False
AXES_VERBOSE = False

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("MinimumLengthValidator", "CommonPasswordValidator", "NumericPasswordValidator")
]
LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True
FORMAT_MODULE_PATH = ["config.formats"]

STATIC_URL = "/static/"
STATIC_ROOT = env.text("STATIC_ROOT") or str(BASE_DIR / "staticfiles")
WHITENOISE_ROOT = BASE_DIR / "templates" / "root"  # served at /: /favicon.ico
WHITENOISE_USE_FINDERS = not PRODUCTION
MEDIA_ROOT = env.text("MEDIA_ROOT") or str(VAR_DIR / "media")
MEDIA_URL = "/media/"
AWS_BUCKET = env.text("AWS_BUCKET")
if AWS_BUCKET == "empty":  # the Go original's webhook service writes this for "not set"
    AWS_BUCKET = ""
STORAGES: dict[str, dict[str, Any]] = {
    "default": {"BACKEND": "webhooks.disk.TidyFileStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
if AWS_BUCKET:
    STORAGES["default"] = {
        "BACKEND": "webhooks.storage.SharedS3Storage",
        "OPTIONS": {
            "bucket_name": AWS_BUCKET,
            "access_key": env.text("AWS_ACCESS_KEY_ID") or None,
            "secret_key": env.text("AWS_SECRET_ACCESS_KEY") or None,
            "region_name": env.text("AWS_REGION") or None,
            "endpoint_url": env.url("AWS_ENDPOINT_URL") or None,
            "addressing_style": "path",
            "signature_version": "s3v4",
            "file_overwrite": True,  # names are new ones; asking whether one exists would need another permission
            "querystring_auth": True,
            "querystring_expire": int(min(TASK_RETENTION, timedelta(days=7)).total_seconds()),
            "object_parameters": {"ContentDisposition": "attachment"},
        },
    }

SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = env.boolean("SECURE_COOKIES", default=PRODUCTION)
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
CSRF_TRUSTED_ORIGINS = env.names("CSRF_TRUSTED_ORIGINS")
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_SSL_REDIRECT = env.boolean("SECURE_SSL_REDIRECT", default=False)
# Requests from within the cluster: probes, Prometheus, and models that upload.
SECURE_REDIRECT_EXEMPT = [r"^live$", r"^ready$", r"^metrics$", r"^u/"]
SECURE_HSTS_SECONDS = env.integer("SECURE_HSTS_SECONDS", default=0, minimum=0)
_scheme_header = env.text(
    "SECURE_PROXY_SSL_HEADER",
    pattern=r"[A-Za-z][A-Za-z0-9-]*",
    hint="Write a header's name, such as X-Forwarded-Proto.",
)
SECURE_PROXY_SSL_HEADER = (f"HTTP_{_scheme_header.upper().replace('-', '_')}", "https") if _scheme_header else None
X_FRAME_OPTIONS = "DENY"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["predictions.api.authentication.KeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["predictions.api.authentication.MayCall"],
    "DEFAULT_PARSER_CLASSES": ["predictions.api.requests.JSONBodyParser"],
    "DEFAULT_RENDERER_CLASSES": ["predictions.api.requests.JSONAnswer"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "predictions.api.requests.AlwaysJSON",
    "EXCEPTION_HANDLER": "predictions.api.errors.answer",
    "UNAUTHENTICATED_USER": None,
    "DEFAULT_SCHEMA_CLASS": "predictions.api.openapi.AutoSchema",
    "DEFAULT_METADATA_CLASS": "predictions.api.requests.AllowAlone",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Serving agent",
    "VERSION": VERSION,
    "OAS_VERSION": "3.1.0",
    "SCHEMA_PATH_PREFIX": "",
    "SORT_OPERATIONS": False,
    "SORT_OPERATION_PARAMETERS": False,
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enum_id_removal",
        "predictions.api.openapi.add_overview",
    ],
}

# --- RQ: its keys share one hash slot on a cluster; the name must stand before anything imports rq
os.environ.setdefault("RQ_KEY_PREFIX", "{rq}" if REDIS_CLUSTER_MODE else "rq")
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    # django-rq takes its connection from here, so every part of the process shares one pool.
    "rq": {"BACKEND": "predictions.redis.connections.SharedConnection"},
}
MAINTENANCE_QUEUE = f"{TASK_TYPE_NAME}-maintenance"
RQ_QUEUES = {
    name: {"USE_REDIS_CACHE": "rq", "SERIALIZER": "rq.serializers.JSONSerializer", "DEFAULT_TIMEOUT": TASK_TIMEOUT}
    for name in (TASK_TYPE_NAME, MAINTENANCE_QUEUE)
}
RQ = {"WORKER_CLASS": "predictions.worker.worker.ThreadWorker", "COMMIT_MODE": "auto"}

# --- Counters: a file per process, added up by /metrics; named before anything imports prometheus_client
METRICS_DIR = env.directory("PROMETHEUS_MULTIPROC_DIR", default=VAR_DIR / "metrics")
os.environ["PROMETHEUS_MULTIPROC_DIR"] = METRICS_DIR

# --- Traces: OpenTelemetry's own variables, which its exporter reads itself; here is only whether there are any
TRACES_EXPORTER = env.choice("OTEL_TRACES_EXPORTER", default="otlp", among=("otlp", "console", "none"))
TRACING_SERVICE_NAME = env.text("OTEL_SERVICE_NAME", default="serving-agent")
_traces_endpoint = env.url("OTEL_EXPORTER_OTLP_ENDPOINT") or env.url("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
TRACING = (
    TRACES_EXPORTER != "none"
    and bool(_traces_endpoint or TRACES_EXPORTER == "console")
    and not env.boolean("OTEL_SDK_DISABLED", default=False)
)

LOGGING_CONFIG = "config.logging.configure"
LOG_LEVEL = env.choice("LOG_LEVEL", default="INFO", among=("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"))
LOGGING = {"level": LOG_LEVEL, "json": PRODUCTION}


def _page(name: str) -> Callable[[object], str]:
    """A link of the admin. Django's `reverse_lazy` does the same, but see environment.py for why it is not imported."""

    def link(request: object) -> str:
        from django.urls import reverse

        return reverse(name)

    return link


UNFOLD = {
    "SITE_TITLE": "Serving agent",
    "SITE_HEADER": "Serving agent",
    "SITE_SUBHEADER": f"{ML_PLATFORM} · queue {TASK_TYPE_NAME}",
    "SITE_SYMBOL": "hub",
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda request: f"{STATIC_URL}predictions/favicon.svg"}
    ],
    "SHOW_VIEW_ON_SITE": False,
    "DASHBOARD_CALLBACK": "predictions.admin.dashboard.context",
    "SIDEBAR": {
        "show_search": False,
        "show_all_applications": False,
        "navigation": [
            {
                "title": "Serving",
                "items": [
                    {"title": "Dashboard", "icon": "monitoring", "link": _page("admin:index")},
                    {"title": "Try it", "icon": "science", "link": _page("agent-try")},
                    {
                        "title": "Tasks",
                        "icon": "list_alt",
                        "link": _page("admin:predictions_task_changelist"),
                    },
                    {
                        "title": "Queues and workers",
                        "icon": "lan",
                        "link": _page("admin:django_rq_dashboard_changelist"),
                    },
                ],
            },
            {
                "title": "People",
                "items": [
                    {"title": "Users", "icon": "person", "link": _page("admin:auth_user_changelist")},
                    {"title": "Groups", "icon": "group", "link": _page("admin:auth_group_changelist")},
                    {"title": "History", "icon": "history", "link": _page("admin:admin_logentry_changelist")},
                ],
            },
        ],
    },
}
# HSTS for subdomains and preloading affect the domain's other hosts, so one service does not set them.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
# The system checks refuse to start with the first and warn of the second.
WRONG_SETTINGS = env.problems
DOUBTFUL_SETTINGS = env.warnings

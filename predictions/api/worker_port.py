"""A worker's own HTTP port, WORKER_METRICS_ADDRESS: `/live` for probes and `/metrics` for Prometheus."""

import hmac
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from django.conf import settings

from predictions.operations import metrics
from predictions.worker.supervisor import seconds_since_last_turn

STUCK_SECONDS = 60
"""A worker's loops turn every second, even without Redis. After this time without a turn they are stuck."""


def serve(address: str) -> ThreadingHTTPServer:
    """Serves at `address` (host:port) in a thread of its own. Raises OSError when it is taken."""
    host, _, port = address.rpartition(":")
    server = ThreadingHTTPServer((host or "0.0.0.0", int(port)), _Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="worker-port", daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    server_version = "serving-agent"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            status, content_type, body = self._metrics()
        elif path != "/live":
            status, content_type, body = _json(404, error="there is no such route", code="not_found")
        elif seconds_since_last_turn() < STUCK_SECONDS:
            status, content_type, body = _json(200, message="worker OK")
        else:
            status, content_type, body = _json(503, error="the worker's loop stands still", code="unavailable")
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Logs nothing: probes would fill most of the log."""

    def _metrics(self) -> tuple[int, str, bytes]:
        scheme, _, key = self.headers.get("Authorization", "").partition(" ")
        given = key.strip() if scheme.lower() == "bearer" else self.headers.get("apikey", "")
        if settings.METRICS_KEY and not hmac.compare_digest(given.encode(), settings.METRICS_KEY.encode()):
            return _json(401, error="send METRICS_KEY as 'apikey'", code="unauthorized")
        return 200, metrics.CONTENT_TYPE, metrics.exposition()


def _json(status: int, **body: str) -> tuple[int, str, bytes]:
    return status, "application/json", json.dumps(body).encode()

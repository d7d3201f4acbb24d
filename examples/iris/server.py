"""A small model server for the iris classifier: run `python -m examples.iris.server --port 8080`."""

import argparse
import contextlib
import json
import re
import signal
import socketserver
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote

from examples.iris.model import docs, predict

LARGEST_BODY = 16 * 1024 * 1024
IDLE_SECONDS = 600


class Refusal(Exception):
    """A request that is answered with an error status and a sentence."""

    def __init__(self, status: HTTPStatus, message: str, allow: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.allow = allow


@dataclass(frozen=True)
class Request:
    """One HTTP request and the name under which this server offers its model."""

    method: str
    path: str
    query: str
    body: bytes
    served_name: str

    def json(self) -> Any:
        """Return the decoded body; raises Refusal with status 400 if it is not JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"The body is not JSON: {error}") from error

    def json_object(self) -> dict[str, Any]:
        """Return the decoded body; raises Refusal with status 400 if it is not a JSON object."""
        body = self.json()
        if not isinstance(body, dict):
            raise Refusal(HTTPStatus.BAD_REQUEST, "Send a JSON object as the body.")
        return body

    def check_model(self, name: str) -> None:
        """Raise Refusal with status 404 if this server does not offer a model of that name."""
        if name != self.served_name:
            raise Refusal(HTTPStatus.NOT_FOUND, f"Model with name {name} does not exist.")


def kserve_ready(request: Request, name: str) -> dict[str, Any]:
    """Answer a KServe v1 question about whether a model is ready."""
    request.check_model(name)
    return {"name": name, "ready": True}


def kserve_predict(request: Request, name: str) -> dict[str, Any]:
    """Answer a KServe v1 prediction, whose body is the inputs.

    As in KServe, inputs that the model itself refuses are an error of the model: status 500.
    """
    request.check_model(name)
    inputs = without_webhook(request.json_object())
    if not isinstance(inputs.get("instances", []), list):
        raise Refusal(HTTPStatus.BAD_REQUEST, 'Expected "instances" to be a list')
    try:
        return predict(name, inputs)
    except ValueError as error:
        raise Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, str(error)) from error


def plain_predict(request: Request) -> dict[str, Any]:
    """Answer a prediction whose body names the model and holds the inputs, with the seconds it took."""
    body = request.json_object()
    name = body.get("model_name")
    if not isinstance(name, str):
        raise Refusal(HTTPStatus.BAD_REQUEST, 'Send "model_name" as a string.')
    request.check_model(name)
    inputs = body.get("inputs")
    if not isinstance(inputs, dict):
        raise Refusal(HTTPStatus.BAD_REQUEST, 'Send "inputs" as a JSON object.')
    started = time.perf_counter()
    try:
        outputs = predict(name, without_webhook(inputs))
    except ValueError as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, str(error)) from error
    return {**outputs, "running_time": f"{time.perf_counter() - started:.6f}s"}


def plain_docs(request: Request, name: str = "") -> dict[str, Any]:
    """Describe the inputs of the model named in the path, the query or the body, or of the only model."""
    name = name or name_in_query(request) or name_in_body(request) or request.served_name
    request.check_model(name)
    return docs(name)


def name_in_query(request: Request) -> str:
    """Return the model_name of the query string, empty if there is none."""
    return parse_qs(request.query).get("model_name", [""])[0]


def name_in_body(request: Request) -> str:
    """Return the model_name of the body, empty if there is none; raises Refusal with status 400."""
    if not request.body:
        return ""
    name = request.json_object().get("model_name", "")
    if not isinstance(name, str):
        raise Refusal(HTTPStatus.BAD_REQUEST, 'Send "model_name" as a string.')
    return name


def without_webhook(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return inputs without the key that asks for results to be uploaded, which this model never does."""
    return {key: value for key, value in inputs.items() if key != "upload_webhook"}


ROUTES: list[tuple[str, str, Callable[..., dict[str, Any]]]] = [
    ("GET", r"/v1/models/([^/:]+)", kserve_ready),
    ("POST", r"/v1/models/([^/:]+):predict", kserve_predict),
    ("POST", r"/v1/predict", plain_predict),
    ("GET", r"/v1/docs", plain_docs),
    ("GET", r"/v1/docs/([^/]+)", plain_docs),
]


def answer(request: Request) -> dict[str, Any]:
    """Return the JSON answer to a request; raises Refusal for every answer that is an error."""
    for method, pattern, route in ROUTES:
        match = re.fullmatch(pattern, request.path)
        if match and request.method != method:
            message = f"{request.method} is not allowed here; use {method}."
            raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, message, allow=method)
        if match:
            return route(request, *(unquote(part) for part in match.groups()))
    raise Refusal(HTTPStatus.NOT_FOUND, f"There is nothing at {request.path}")


class IrisServer(ThreadingHTTPServer):
    """An HTTP server with one thread per connection, offering the classifier under one model name."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, model_name: str) -> None:
        self.model_name = model_name
        super().__init__((host, port), IrisHandler)

    def server_bind(self) -> None:
        """Bind without looking the host up by name, which can take seconds; raises OSError if refused."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report an error on standard error, except that a caller has hung up, which is no fault."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class IrisHandler(BaseHTTPRequestHandler):
    """Reads the requests of one connection and writes their JSON answers."""

    server: IrisServer
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"
    server_version = "iris"
    sys_version = ""
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = IDLE_SECONDS

    def respond(self) -> None:
        """Answer the request whose headers have just been read."""
        try:
            request = self.read_request()
        except Refusal as refusal:
            self.close_connection = True
            self.write_refusal(refusal)
            return
        try:
            content = answer(request)
        except Refusal as refusal:
            self.write_refusal(refusal)
            return
        self.write_json(HTTPStatus.OK, content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = respond

    def read_request(self) -> Request:
        """Return the request with its body, which is empty if there is none.

        Raises Refusal if the body's length is unknown or too large, which leaves the body unread, and
        ConnectionError if the caller hangs up before the body's end.
        """
        length = self.body_length()
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionResetError("The caller hung up before the end of the body.")
        path, _, query = self.path.partition("?")
        return Request(self.command, path, query, body, self.server.model_name)

    def body_length(self) -> int:
        """Return the length of the body in bytes; raises Refusal if it is unknown or too large."""
        if "Transfer-Encoding" in self.headers:
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "Send the body with a Content-Length, not in chunks.")
        stated = self.headers.get("Content-Length", "0")
        if not re.fullmatch(r"[0-9]{1,18}", stated):
            raise Refusal(HTTPStatus.BAD_REQUEST, "Send the Content-Length as a number of bytes.")
        if int(stated) > LARGEST_BODY:
            message = f"Send a body of at most {LARGEST_BODY:,} bytes."
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
        return int(stated)

    def write_refusal(self, refusal: Refusal) -> None:
        """Write the answer that refuses a request."""
        self.write_json(refusal.status, {"error": refusal.message}, refusal.allow)

    def write_json(self, status: int, content: dict[str, Any], allow: str = "") -> None:
        """Write one answer, without its body if the request was HEAD."""
        body = json.dumps(content, allow_nan=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if allow:
            self.send_header("Allow", allow)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer, as JSON, a request that the standard library finds unreadable, and close the connection."""
        self.close_connection = True
        unknown_method = code == HTTPStatus.NOT_IMPLEMENTED
        status = HTTPStatus.METHOD_NOT_ALLOWED if unknown_method else HTTPStatus(code)
        self.write_json(status, {"error": message or status.phrase})

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet about single requests."""


def ready_line(server: IrisServer) -> str:
    """Return the line that tells where the server listens."""
    root = f"http://{server.server_name}:{server.server_port}/v1"
    name = quote(server.model_name, safe="")
    return f"Serving at {root}/models/{name}:predict (KServe v1), {root}/predict and {root}/docs (plain)"


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line; exits with status 2 if they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m examples.iris.server", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=port, default=8080, help="0 for any free one (default: %(default)s)")
    parser.add_argument("--model-name", default="iris", help="name of the model (default: %(default)s)")
    return parser.parse_args(arguments)


def port(text: str) -> int:
    """Return a TCP port number; raises ValueError if the text is not one."""
    number = int(text)
    if not 0 <= number <= 65535:
        raise ValueError(f"{number} is not a port")
    return number


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until Ctrl-C or SIGTERM; exits with status 1 if the address cannot be listened on."""
    options = parsed(arguments)
    try:
        server = IrisServer(options.host, options.port, options.model_name)
    except OSError as error:
        sys.exit(f"Cannot listen on {options.host}:{options.port}: {error.strerror}")
    for stop in (signal.SIGINT, signal.SIGTERM):  # a shell makes background processes ignore SIGINT
        signal.signal(stop, signal.default_int_handler)
    with server, contextlib.suppress(KeyboardInterrupt):
        print(ready_line(server), flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()

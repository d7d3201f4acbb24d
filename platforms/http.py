"""HttpPlatform: one pooled session, one deadline over everything, safe repeats, foreign errors made ours.

What may be repeated is only what has certainly not run a prediction: a connection that was never made or broke while
the request was still being sent, and the answers 429, 502 and 503. A timeout, a 504 or a connection that broke while
waiting for the answer is not.
"""

import json
import logging
import random
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
import requests.adapters
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from platforms.base import (
    Call,
    InvalidInputs,
    Platform,
    PlatformError,
    PlatformTimeout,
    PlatformUnavailable,
    presentable,
)

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_SECONDS = 5.0
FIRST_WAIT_SECONDS = 0.2
MAX_TRIES = 5
BUSY = {429, 502, 503}
REFUSED_INPUT = {400, 404, 409, 413, 415, 422}
DEFAULT_MAX_RESPONSE_BYTES = 50 * 1024 * 1024


class _Exchange:
    """One request on the wire: the socket it waits on, and how much of the request has left."""

    def __init__(self) -> None:
        self.sent = False
        self.closed = False
        self.connection: HTTPConnection | None = None

    def close(self) -> None:
        """Wakes the thread that waits on the socket, from any other thread."""
        self.closed = True
        sock = getattr(self.connection, "sock", None)
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


_exchange: ContextVar[_Exchange | None] = ContextVar("exchange", default=None)


class _Watched:
    """Mixed into urllib3's connections: tells the current exchange which socket it uses and when all is sent."""

    sock: Any

    def request(self, *args: Any, **kwargs: Any) -> None:
        if exchange := _exchange.get():
            exchange.connection = self  # type: ignore[assignment]
        super().request(*args, **kwargs)  # type: ignore[misc]
        if exchange:
            exchange.sent = True

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        exchange = _exchange.get()
        if exchange and exchange.closed:
            raise ConnectionAbortedError("the call was stopped while it connected")


class _WatchedHTTP(_Watched, HTTPConnection):
    pass


class _WatchedHTTPS(_Watched, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _WatchedHTTP


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _WatchedHTTPS


class _Adapter(requests.adapters.HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}


def new_session() -> requests.Session:
    """Keep-alive connections for up to 512 predictions at once; nothing from the environment, no cookies."""
    session = requests.Session()
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    adapter = _Adapter(pool_connections=8, pool_maxsize=512, max_retries=0)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


class HttpPlatform(Platform):
    """Base of the platforms that are reached over HTTP."""

    def __init__(self, *, timeout_seconds: float, max_response_bytes: int = DEFAULT_MAX_RESPONSE_BYTES) -> None:
        self.timeout_seconds = timeout_seconds
        self.max_response_bytes = max_response_bytes
        self._session = new_session()

    def send_json(
        self, method: str, url: str, body: Any, call: Call, *, headers: Mapping[str, str] | None = None
    ) -> Any:
        """Sends `body` as JSON (nothing if None) and returns the parsed answer of a 2xx.

        An answer without Content-Type is text (KServe models that return a string). Raises as Platform.predict.
        """
        status, content_type, content = self._exchange_repeating(method, url, _encode(body), call, headers=headers)
        if 200 <= status < 300:
            return self._decode(content, content_type)
        raise self._error_of(status, content)

    def _exchange_repeating(
        self, method: str, url: str, body: bytes | None, call: Call, *, headers: Mapping[str, str] | None
    ) -> tuple[int, str, bytes]:
        wait = FIRST_WAIT_SECONDS
        for tries in range(1, MAX_TRIES + 1):
            exchange = _Exchange()
            retry_after: float | None = None
            try:
                with self._open(method, url, body, call, exchange, headers=headers) as response:
                    if response.status_code not in BUSY or tries == MAX_TRIES:
                        content = self._read(response, call)
                        return response.status_code, response.headers.get("Content-Type", ""), content
                    retry_after = _retry_after(response)
                    logger.info("%s answered %d, trying again", self.name, response.status_code)
            except PlatformUnavailable as error:
                if exchange.sent:
                    raise PlatformError(f"the {self.name} platform broke the connection") from error
                if tries == MAX_TRIES:
                    raise
                logger.info("%s could not be reached (%s), trying again", self.name, error.__cause__)
            pause = wait * random.uniform(0.75, 1.25) if retry_after is None else retry_after
            if pause >= call.remaining():
                raise PlatformUnavailable(f"the {self.name} platform is not available now")
            call.wait(pause)
            wait *= 2
        raise AssertionError("unreachable: the last try returns or raises")

    @contextmanager
    def _open(
        self,
        method: str,
        url: str,
        body: bytes | None,
        call: Call,
        exchange: _Exchange,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[requests.Response]:
        """A response whose headers have come; inside the block stopping the call breaks its connection."""
        request = requests.Request(method, url, data=body, headers=_headers(body, call, headers)).prepare()
        token = _exchange.set(exchange)
        response: requests.Response | None = None
        try:
            with call.closing(exchange.close), _foreign_errors(self.name, call):
                response = self._session.send(
                    request,
                    stream=True,
                    allow_redirects=False,
                    timeout=(call.remaining(CONNECT_TIMEOUT_SECONDS), max(call.remaining(), 0.001)),
                )
                yield response
        finally:
            _exchange.reset(token)
            if response is not None:
                response.close()

    def _read(self, response: requests.Response, call: Call) -> bytes:
        """The whole body, or PlatformError when it is larger than allowed: never held in memory beyond that."""
        announced = response.headers.get("Content-Length", "")
        content = bytearray()
        if not announced.isdigit() or int(announced) <= self.max_response_bytes:
            while len(content) <= self.max_response_bytes:
                piece = response.raw.read1(64 * 1024)
                call.check()
                if not piece:
                    return bytes(content)
                content += piece
        raise PlatformError(f"the answer of the {self.name} platform is larger than MAX_RESPONSE_BODY")

    def _decode(self, content: bytes, content_type: str) -> Any:
        if not content and not content_type:
            return None
        try:
            return loads(content)
        except ValueError as error:
            if not content_type:
                with suppress(UnicodeDecodeError):
                    return content.decode()
            logger.warning("%s answered something that is not JSON (%s)", self.name, content_type)
            raise PlatformError(f"the {self.name} platform answered something that is not JSON") from error

    def _error_of(self, status: int, content: bytes) -> PlatformError:
        """Which of our errors a foreign answer means. 404 is the caller's: it names a model nobody has."""
        said = _message_of(content)
        logger.info("%s answered %d: %s", self.name, status, said or content[:200])
        if status in REFUSED_INPUT:
            fallback = f"the {self.name} platform refused the request ({status})"
            if status == 404:
                fallback = f"the {self.name} platform does not know this model"
            return InvalidInputs(presentable(said, fallback=fallback))
        if status == 504:
            return PlatformTimeout(f"the {self.name} platform's gateway gave up waiting (504)")
        if status in BUSY:
            return PlatformUnavailable(
                presentable(said, fallback=f"the {self.name} platform is not available ({status})")
            )
        return PlatformError(presentable(said, fallback=f"the {self.name} platform answered {status}"))


def loads(content: bytes | str) -> Any:
    """JSON as platforms write it: NaN and Infinity become None. Raises ValueError."""
    try:
        return json.loads(content, parse_constant=lambda constant: None)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _encode(body: Any) -> bytes | None:
    return None if body is None else json.dumps(body, separators=(",", ":"), allow_nan=False).encode()


def _headers(body: bytes | None, call: Call, headers: Mapping[str, str] | None) -> dict[str, str]:
    """Exactly `application/json`: with a charset behind it KServe 0.21 hands the model raw bytes."""
    made = {"Accept": "application/json", "User-Agent": "serving-agent"}
    if body is not None:
        made["Content-Type"] = "application/json"
    if call.request_id:
        made["X-Request-ID"] = call.request_id
    return {**made, **(headers or {})}


def _retry_after(response: requests.Response) -> float | None:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else None


def _message_of(content: bytes) -> str:
    """What an error body says: KServe's `error`, FastAPI's and RFC 7807's `detail`, or `message`/`title`."""
    try:
        body = loads(content)
    except ValueError:
        return ""
    if isinstance(body, dict):
        for key in ("error", "detail", "message", "title"):
            if isinstance(body.get(key), str):
                return str(body[key])
    return ""


@contextmanager
def _foreign_errors(name: str, call: Call) -> Iterator[None]:
    """requests' and urllib3's errors become ours; a socket that we broke ourselves becomes CallStopped."""
    try:
        yield
    except requests.exceptions.ConnectTimeout as error:
        call.check()
        raise PlatformUnavailable(f"the {name} platform could not be reached") from error
    except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError, TimeoutError) as error:
        raise PlatformTimeout(f"the {name} platform did not answer in time") from error
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader, UnicodeError) as error:
        raise InvalidInputs("this model's name cannot be part of a request") from error
    except (requests.exceptions.ConnectionError, OSError) as error:
        call.check()
        raise PlatformUnavailable(f"the {name} platform could not be reached") from error
    except urllib3.exceptions.HTTPError as error:  # while the body is read
        call.check()
        raise PlatformError(f"the answer of the {name} platform broke off") from error

"""Authentication by API keys, operator keys, the record service's key and the admin's sessions."""

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.conf import settings
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.exceptions import APIException, AuthenticationFailed, NotAuthenticated, PermissionDenied
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

if TYPE_CHECKING:
    from rest_framework.views import APIView


@dataclass(frozen=True, slots=True)
class Caller:
    """The rights of the request's key."""

    may_call: bool
    is_operator: bool
    is_record_client: bool
    is_authenticated: bool = True


def key_of(request: Request) -> str:
    """The key from `Authorization: Bearer …` or `apikey: …`; "" if the request has none."""
    headers: dict[str, str] = request.META
    scheme, _, key = headers.get("HTTP_AUTHORIZATION", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else headers.get("HTTP_APIKEY", "").strip()


def is_one_of(key: str, keys: Iterable[str]) -> bool:
    """Compares the key with every known key, each in constant time."""
    given = key.encode()
    found = False
    for known in keys:
        found |= bool(known) and hmac.compare_digest(given, known.encode())
    return found


class KeyAuthentication(BaseAuthentication):
    """Recognises keys and refuses unknown ones. The permissions decide about requests without a key."""

    def authenticate(self, request: Request) -> tuple[Caller, str] | None:
        key = key_of(request)
        if not key:
            return None
        operator = is_one_of(key, settings.OPERATOR_KEYS)
        caller = Caller(
            may_call=operator or is_one_of(key, settings.API_KEYS),
            is_operator=operator,
            is_record_client=is_one_of(key, [settings.WEBHOOK_APIKEY]),
        )
        if not (caller.may_call or caller.is_record_client or _is_open()):
            raise AuthenticationFailed("this key is not known here", code="unauthorized")
        return caller, key


class StaffSession(SessionAuthentication):
    """A staff user signed in to the admin. Unsafe requests need the CSRF token."""


def _is_open() -> bool:
    """Whether the API routes are open: no key is configured, and DEBUG or ALLOW_ANONYMOUS allows that."""
    return not settings.API_KEYS and (settings.DEBUG or settings.ALLOW_ANONYMOUS)


class Permission(BasePermission):
    """Base of all permissions. The OpenAPI document shows `schemes` and `refusals`."""

    schemes: tuple[str, ...] = ()
    """The keys that it accepts, by their names in openapi.SECURITY_SCHEMES. One key is enough."""
    without_key = ""
    """The error for a request without a key or with an unknown one. Empty: the permission needs no key."""
    message = ""
    """The error for a known key that is not enough. Empty: every known key is enough."""

    @property
    def refusals(self) -> list[APIException]:
        unauthorized = [NotAuthenticated(self.without_key)] if self.without_key else []
        return [*unauthorized, *([PermissionDenied(self.message)] if self.message else [])]


class MayCall(Permission):
    """API routes: any API key or operator's key, or no key if the agent is open."""

    schemes: tuple[str, ...] = ("bearer", "apikey")
    without_key = "send an API key: 'Authorization: Bearer …' or 'apikey: …'"
    message = "this key may not call the prediction API"

    def has_permission(self, request: Request, view: "APIView") -> bool:
        if _is_open():
            return True
        if request.auth is None:
            raise NotAuthenticated(self.without_key)
        return bool(request.user.may_call)  # type: ignore[union-attr]


class MayRead(MayCall):
    """Reading a task: all callers, and other agents that keep their records here."""

    schemes = ("bearer", "apikey", "recordKey")
    message = ""

    def has_permission(self, request: Request, view: "APIView") -> bool:
        if isinstance(request.user, Caller) and request.user.is_record_client:
            return True
        return super().has_permission(request, view)


class IsOperator(Permission):
    """Operators' routes: a key of OPERATOR_KEYS, or the session of a staff user."""

    schemes = ("bearer", "apikey", "staffSession")
    message = without_key = "this route is for operators: use a key of OPERATOR_KEYS, or sign in to the admin"

    def has_permission(self, request: Request, view: "APIView") -> bool:
        if request.user is None:
            raise NotAuthenticated(self.without_key)
        if isinstance(request.user, Caller):
            return request.user.is_operator
        return bool(request.user.is_active and request.user.is_staff)

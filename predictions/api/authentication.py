"""Who may call: API keys, operator keys, the record service's key, and staff signed in to the admin."""

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.conf import settings
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.exceptions import AuthenticationFailed, NotAuthenticated
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

if TYPE_CHECKING:
    from rest_framework.views import APIView


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose key came with the request."""

    may_call: bool
    is_operator: bool
    is_record_client: bool
    is_authenticated: bool = True


def key_of(request: Request) -> str:
    """The key from `Authorization: Bearer …` or `apikey: …`, "" without one."""
    said: dict[str, str] = request.META
    scheme, _, key = said.get("HTTP_AUTHORIZATION", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else said.get("HTTP_APIKEY", "").strip()


def is_one_of(key: str, keys: Iterable[str]) -> bool:
    """Compares with every key, each in constant time."""
    given = key.encode()
    found = False
    for known in keys:
        found |= bool(known) and hmac.compare_digest(given, known.encode())
    return found


class KeyAuthentication(BaseAuthentication):
    """Recognises a key, and refuses one that nobody has; no key at all is left to the permissions."""

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
    """A staff user signed in to the admin; their unsafe requests need the CSRF token."""


def _is_open() -> bool:
    """Whether the API routes need no key: none is configured, and the settings say that this is meant."""
    return not settings.API_KEYS and (settings.DEBUG or settings.ALLOW_ANONYMOUS)


class MayCall(BasePermission):
    """API routes: an API key, an operator's key, or nobody's where the agent is open."""

    message = "this key may not call the prediction API"

    def has_permission(self, request: Request, view: "APIView") -> bool:
        if _is_open():
            return True
        if request.auth is None:
            raise NotAuthenticated("send an API key: 'Authorization: Bearer …' or 'apikey: …'")
        return bool(request.user.may_call)  # type: ignore[union-attr]


class MayRead(MayCall):
    """Reading a task: whoever may call, and other agents that keep their records here."""

    def has_permission(self, request: Request, view: "APIView") -> bool:
        if isinstance(request.user, Caller) and request.user.is_record_client:
            return True
        return super().has_permission(request, view)


class IsOperator(BasePermission):
    """Operator routes: a key of OPERATOR_KEYS, or the session of a staff user."""

    message = "this route is for operators: use a key of OPERATOR_KEYS, or sign in to the admin"

    def has_permission(self, request: Request, view: "APIView") -> bool:
        if request.user is None:
            raise NotAuthenticated(self.message)
        if isinstance(request.user, Caller):
            return request.user.is_operator
        return bool(request.user.is_active and request.user.is_staff)

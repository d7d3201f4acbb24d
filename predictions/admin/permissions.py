"""Which pages of the admin change nothing."""

from typing import Any

from django.http import HttpRequest


class ReadOnly:
    """A ModelAdmin with this as a base offers no add, edit or delete."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

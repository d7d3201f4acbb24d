"""Permissions of the record and upload services: WEBHOOK_APIKEY, and a task's token for its model."""

from rest_framework.exceptions import NotAuthenticated, NotFound
from rest_framework.request import Request
from rest_framework.views import APIView

from predictions import uploads
from predictions.api.authentication import Caller, Permission


class IsRecordClient(Permission):
    """The `apikey` header equals WEBHOOK_APIKEY. An empty WEBHOOK_APIKEY lets no request in."""

    schemes = ("recordKey",)
    message = without_key = "this key may not keep records here: send the record service's WEBHOOK_APIKEY as 'apikey'"

    def has_permission(self, request: Request, view: APIView) -> bool:
        if request.auth is None:
            raise NotAuthenticated(self.without_key)
        return isinstance(request.user, Caller) and request.user.is_record_client


class MayUpload(Permission):
    """The token in the path belongs to a running task. Sets `request.upload_task` to it."""

    refusals = [NotFound()]

    def has_permission(self, request: Request, view: APIView) -> bool:
        try:
            request.upload_task = uploads.task_of(view.kwargs["token"])  # type: ignore[attr-defined]
        except uploads.InvalidToken as error:
            raise NotFound from error
        return True

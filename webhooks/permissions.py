"""Who may keep records and files here: holders of WEBHOOK_APIKEY, and models with a task's token."""

from rest_framework.exceptions import NotAuthenticated, NotFound
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from predictions import uploads
from predictions.api.authentication import Caller


class IsRecordClient(BasePermission):
    """The `apikey` header equals WEBHOOK_APIKEY. While that is empty, nobody may."""

    message = "this key may not keep records here: send the record service's WEBHOOK_APIKEY as 'apikey'"

    def has_permission(self, request: Request, view: APIView) -> bool:
        if request.auth is None:
            raise NotAuthenticated(self.message)
        return isinstance(request.user, Caller) and request.user.is_record_client


class MayUpload(BasePermission):
    """The token in the path belongs to a task that is running; the request then has it as `upload_task`."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        try:
            request.upload_task = uploads.task_of(view.kwargs["token"])  # type: ignore[attr-defined]
        except uploads.InvalidToken as error:
            raise NotFound from error
        return True

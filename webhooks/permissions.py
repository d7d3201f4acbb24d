"""Who may keep records here: holders of WEBHOOK_APIKEY."""

from rest_framework.exceptions import NotAuthenticated
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from predictions.api.authentication import Caller


class IsRecordClient(BasePermission):
    """The `apikey` header equals WEBHOOK_APIKEY. While that is empty, nobody may."""

    message = "this key may not keep records here: send the record service's WEBHOOK_APIKEY as 'apikey'"

    def has_permission(self, request: Request, view: APIView) -> bool:
        if request.auth is None:
            raise NotAuthenticated(self.message)
        return isinstance(request.user, Caller) and request.user.is_record_client

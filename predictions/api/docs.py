"""`GET /v1/docs`: the model's own description of its inputs."""

from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from predictions import submission
from predictions.api.serializers import StrictCharField


class ModelSerializer(serializers.Serializer[Any]):
    model_name = StrictCharField(max_length=200)


def _body(request: Request) -> dict[str, Any]:
    """The JSON body, where there is one that is an object."""
    return request.data if isinstance(request.data, dict) else {}


class DocsView(APIView):
    """Asked in the query string or in a JSON body."""

    def get(self, request: Request) -> Response:
        model = ModelSerializer(data={**_body(request), **request.query_params.dict()})
        model.is_valid(raise_exception=True)
        return Response(submission.describe(model.validated_data["model_name"]))

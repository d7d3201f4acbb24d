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


class DocsView(APIView):
    """Asked in the query string or in a JSON body."""

    def get(self, request: Request) -> Response:
        model = ModelSerializer(data=request.query_params.dict() or request.data)
        model.is_valid(raise_exception=True)
        return Response(submission.describe(model.validated_data["model_name"]))

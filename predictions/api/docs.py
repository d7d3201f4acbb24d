"""`GET /v1/docs`: the model's own description of its inputs."""

from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from platforms import Unsupported
from predictions import submission
from predictions.api.openapi import BODY_ERRORS, PLATFORM_ERRORS, errors
from predictions.api.requests import query_or_body
from predictions.api.serializers import ModelSerializer

IRIS = {"instances": {"type": "list of lists of 4 numbers", "description": "The flowers to classify."}}
NO_DOCS = Unsupported("this model does not describe its inputs")


class DocsView(APIView):
    """Read a model's description of its inputs.

    Answers the platform's description unchanged. The model's name may be in a JSON body instead of the query.
    """

    @extend_schema(
        "describeModel",
        parameters=[ModelSerializer],
        responses={200: {"description": "JSON."}, **errors(*BODY_ERRORS, *PLATFORM_ERRORS, NO_DOCS)},
        examples=[
            OpenApiExample("A model", "iris", parameter_only=("model_name", "query")),
            OpenApiExample("Its inputs", IRIS),
        ],
    )
    def get(self, request: Request) -> Response:
        model = ModelSerializer(data=query_or_body(request))
        model.is_valid(raise_exception=True)
        return Response(submission.describe(model.validated_data["model_name"]))

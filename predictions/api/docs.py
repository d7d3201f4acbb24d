"""`GET /v1/docs`: the model's own description of its inputs."""

from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from platforms import Unsupported
from predictions import submission
from predictions.api.openapi import BODY_ERRORS, PLATFORM_ERRORS, errors
from predictions.api.requests import query_or_body
from predictions.api.serializers import ModelSerializer

IRIS = {
    "instances": {
        "type": "list of lists of 4 numbers: sepal length, sepal width, petal length, petal width, in cm",
        "description": "The flowers to classify, 10,000 at most.",
        "default": [[5.1, 3.5, 1.4, 0.2]],
    },
    "delay_seconds": {
        "type": "number of seconds from 0 to 300",
        "description": "How long to wait before answering, to try out queueing, progress and cancelling.",
        "default": 0,
    },
}


class DocsView(APIView):
    """The model's own description of its inputs, from the platform. The model's name may be in a JSON body instead."""

    @extend_schema(
        "describeModel",
        tags=["Predictions"],
        summary="A model's inputs",
        parameters=[ModelSerializer],
        examples=[OpenApiExample("The example model", "iris", parameter_only=("model_name", "query"))],
        responses={
            200: OpenApiResponse(
                {"description": "The platform's answer."},
                "The description.",
                [OpenApiExample("The example model", IRIS)],
            ),
            **errors(*BODY_ERRORS, *PLATFORM_ERRORS, Unsupported("this model does not describe its inputs")),
        },
    )
    def get(self, request: Request) -> Response:
        model = ModelSerializer(data=query_or_body(request))
        model.is_valid(raise_exception=True)
        return Response(submission.describe(model.validated_data["model_name"]))

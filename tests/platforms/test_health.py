"""Health checks of the platforms, which run no prediction."""

from typing import Any

import pytest

from platforms import Health, Level, Platform, PlatformTimeout, PlatformUnavailable, Prediction, PredictionResult
from platforms.base import Call
from platforms.http import HttpPlatform
from platforms.local import Local
from tests.helpers.makers import KEY, call, k8s, kserve, replicate, runpod
from tests.helpers.stub import Stub, answers, closed_port, hangs, says

IRIS = "GET /v1/models/iris"
DOCS = "GET /v1/docs"
HEALTH = "GET /v2/ep1/health"
ACCOUNT = "GET /v1/account"


def check(platform: Platform, model_name: str = "") -> Health:
    return platform.check(model_name, call())


def test_kserve_asks_the_model_under_its_own_host(stub: Stub) -> None:
    stub.script(IRIS, answers({"name": "iris", "ready": True}))
    found = check(kserve(stub.address), "iris")
    assert (found.level, found.hint) == (Level.OK, "")
    assert "iris is ready" in found.message
    (asked,) = stub.calls(IRIS)
    assert asked.headers["host"] == "iris.default.example.com"


@pytest.mark.parametrize(
    ("step", "level", "says_"),
    [
        (answers({"name": "iris", "ready": "True"}), Level.OK, "is ready"),
        (answers({"name": "iris", "ready": False}), Level.PROBLEM, "is not ready"),
        (answers({"error": "Model with name iris is not ready."}, status=503), Level.PROBLEM, "not ready (503: Model"),
        (says(b"upstream connect error", status=503), Level.PROBLEM, "not ready (503)"),
        (says(b"", status=404), Level.PROBLEM, "under the host iris.default.example.com"),
        (answers({"detail": "not allowed"}, status=403), Level.WARNING, "answers 403: not allowed"),
    ],
)
def test_kserve_says_how_the_model_stands(stub: Stub, step: Any, level: Level, says_: str) -> None:
    stub.script(IRIS, step)
    found = check(kserve(stub.address), "iris")
    assert (found.level, says_ in found.message, bool(found.hint)) == (level, True, level is not Level.OK)


@pytest.mark.parametrize("status", [200, 404, 503])
def test_without_a_models_name_kserve_is_well_if_its_ingress_answers(stub: Stub, status: int) -> None:
    stub.script("GET /", says(b"", status=status))
    assert check(kserve(stub.address)).level is Level.OK


@pytest.mark.parametrize(
    ("step", "level"),
    [
        (answers({"petal": {"type": "float"}}), Level.OK),
        (answers({"detail": "Not Found"}, status=404), Level.OK),
        (answers({"error": "no such model"}, status=400), Level.WARNING),
        (answers({"error": "send a key"}, status=401), Level.PROBLEM),
        (answers({"error": "internal error"}, status=500), Level.PROBLEM),
    ],
)
def test_the_check_of_a_plain_service_requests_its_documentation(stub: Stub, step: Any, level: Level) -> None:
    stub.script(DOCS, step)
    assert check(k8s(stub.address), "iris").level is level
    assert stub.calls(DOCS)[0].json == {"model_name": "iris"}


@pytest.mark.parametrize(
    ("step", "level", "says_"),
    [
        (answers({"jobs": {}, "workers": {"idle": 2, "running": 1, "throttled": 0}}), Level.OK, "2 idle, 1 running"),
        (answers({"jobs": {}, "workers": {}}), Level.OK, "none up"),
        (answers({"workers": {"idle": 1, "unhealthy": 1}}), Level.WARNING, "1 unhealthy"),
        (answers({"workers": {"throttled": 3}}), Level.WARNING, "3 throttled"),
        (says(b"", status=401), Level.PROBLEM, "key is refused"),
        (says(b"", status=404), Level.PROBLEM, "endpoint does not exist"),
        (says(b"<html>", status=200), Level.WARNING, "answers 200"),
        (says(b"", status=500), Level.WARNING, "answers 500"),
    ],
)
def test_the_check_of_runpod_requests_the_endpoints_health(stub: Stub, step: Any, level: Level, says_: str) -> None:
    stub.script(HEALTH, step)
    found = check(runpod(stub.address))
    assert (found.level, says_ in found.message) == (level, True)
    assert stub.calls(HEALTH)[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("model", "route"),
    [
        ("owner/name", "GET /v1/models/owner/name"),
        ("owner/name:5c7d", "GET /v1/models/owner/name/versions/5c7d"),
    ],
)
def test_the_check_of_replicate_requests_the_account_and_the_model(stub: Stub, model: str, route: str) -> None:
    stub.script(ACCOUNT, answers({"username": "me"}))
    stub.script(route, answers({"name": "name"}), answers({"detail": "not found"}, status=404))
    platform = replicate(stub.address, model=model)
    assert check(platform) == Health(Level.OK, f"the key is accepted; {model} is there")
    gone = check(platform)
    assert (gone.level, f"there is no {model}" in gone.message) == (Level.PROBLEM, True)
    assert all(asked.headers["authorization"] == f"Bearer {KEY}" for asked in stub.received)


def test_a_refused_key_of_replicate_is_a_problem(stub: Stub) -> None:
    stub.script(ACCOUNT, answers({"detail": "You did not pass a valid token"}, status=401))
    found = check(replicate(stub.address))
    assert (found.level, "REPLICATE_APIKEY" in found.hint) == (Level.PROBLEM, True)


def test_a_bare_version_and_a_gateway_without_accounts_are_no_problem(stub: Stub) -> None:
    stub.script(ACCOUNT, says(b"", status=404))
    found = check(replicate(stub.address))
    assert (found.level, "(404)" in found.message) == (Level.OK, True)


def test_the_local_predictor_is_there_once_it_could_be_imported() -> None:
    found = check(Local(predictor="tests.helpers.predictors:predict", timeout_seconds=1))
    assert (found.level, "tests.helpers.predictors:predict" in found.message) == (Level.OK, True)


@pytest.mark.parametrize("make", [kserve, k8s, replicate, runpod])
def test_a_check_runs_no_prediction(stub: Stub, make: Any) -> None:
    check(make(stub.address), "iris")
    assert {asked.method for asked in stub.received} == {"GET"}


@pytest.mark.parametrize("make", [kserve, k8s, replicate, runpod])
def test_an_unreachable_platform_fails_its_check(make: Any) -> None:
    with pytest.raises(PlatformUnavailable):
        check(make(f"127.0.0.1:{closed_port()}"), "iris")


@pytest.mark.parametrize(("make", "route"), [(kserve, IRIS), (k8s, DOCS), (replicate, ACCOUNT), (runpod, HEALTH)])
def test_a_check_of_a_silent_platform_ends_at_its_deadline(stub: Stub, make: Any, route: str) -> None:
    stub.script(route, hangs)
    with pytest.raises(PlatformTimeout):
        make(stub.address).check("iris", call(0.2))
    assert stub.hung_up.wait(20)


def test_a_platform_that_knows_no_such_question_is_well() -> None:
    class Quiet(Platform):
        name = "quiet"
        timeout_seconds = 1.0

        def predict(self, prediction: Prediction, call: Call) -> PredictionResult:
            return PredictionResult(None)

    assert check(Quiet()).level is Level.OK


def test_an_answer_in_words_never_has_the_key() -> None:
    platform: HttpPlatform = runpod("127.0.0.1:1")
    assert KEY not in platform.in_words(400, {"error": f"bad token {KEY}"})

"""Wrong settings of Redis; predictions.checks refuses them at start."""

import re
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings
from django.core.checks import CheckMessage, Error
from rq.defaults import RQ_KEY_PREFIX

from predictions.redis.addresses import parse_address


def check_redis() -> Iterator[CheckMessage]:
    for variable, addresses in (
        ("REDIS_ADDRESS", settings.REDIS_ADDRESS.split(",") if settings.REDIS_ADDRESS else []),
        ("REDIS_SENTINELS", settings.REDIS_SENTINELS),
    ):
        for address in addresses:
            try:
                parse_address(address)
            except ValueError as error:
                yield Error(f"{variable}: {error}", "Write host:port, and a comma between several.", id="agent.E007")
    if settings.REDIS_CLUSTER_MODE and settings.REDIS_SENTINELS:
        yield Error(
            "REDIS_CLUSTER_MODE and REDIS_SENTINELS are both set",
            "A cluster elects its masters itself: set the one that you have.",
            id="agent.E040",
        )
    elif settings.REDIS_SENTINELS and settings.REDIS_ADDRESS:
        yield Error(
            "REDIS_ADDRESS and REDIS_SENTINELS are both set",
            "The sentinels tell where the master is: leave REDIS_ADDRESS out.",
            id="agent.E041",
        )
    elif settings.REDIS_CLUSTER_MODE and not settings.REDIS_ADDRESS:
        yield Error(
            "REDIS_CLUSTER_MODE is on without REDIS_ADDRESS",
            "List some of its nodes: host:port,host:port.",
            id="agent.E042",
        )
    elif not settings.REDIS_CLUSTER_MODE and "," in settings.REDIS_ADDRESS:
        yield Error(
            "REDIS_ADDRESS lists several servers that are not a cluster",
            "Set REDIS_CLUSTER_MODE=true if they are one, else name one server.",
            id="agent.E043",
        )
    if bool(settings.REDIS_SENTINELS) != bool(settings.REDIS_SENTINEL_MASTER):
        yield Error(
            "REDIS_SENTINELS and REDIS_SENTINEL_MASTER are set one without the other",
            "Sentinels know each master by a name: set both, or neither.",
            id="agent.E044",
        )
    if settings.REDIS_CLUSTER_MODE and not re.match(r"[^{]*\{[^}]+\}", RQ_KEY_PREFIX):
        yield Error(
            f"RQ_KEY_PREFIX={RQ_KEY_PREFIX!r} spreads the queue's keys over a cluster",
            "Leave RQ_KEY_PREFIX out, or put part of it in braces, such as {rq}: that decides on which node keys are.",
            id="agent.E045",
        )
    if settings.USE_LOCAL_REDIS and (settings.REDIS_CLUSTER_MODE or settings.REDIS_SENTINELS):
        yield Error(
            "USE_LOCAL_REDIS is on with a cluster or sentinels",
            "It is for a Redis that dies with the pod: set USE_LOCAL_REDIS=false.",
            id="agent.E046",
        )
    files = {
        name: getattr(settings, name) for name in ("REDIS_TLS_CA_FILE", "REDIS_TLS_CERT_FILE", "REDIS_TLS_KEY_FILE")
    }
    for name, path in files.items():
        if path and not settings.REDIS_TLS:
            yield Error(
                f"{name} is set, but REDIS_TLS is off", "Set REDIS_TLS=true, or leave the file out.", id="agent.E047"
            )
        elif path and not Path(path).is_file():
            yield Error(
                f"{name}: there is no file {path}",
                "Give the path of a PEM file that this process can read.",
                id="agent.E048",
            )
    if bool(files["REDIS_TLS_CERT_FILE"]) != bool(files["REDIS_TLS_KEY_FILE"]):
        yield Error(
            "REDIS_TLS_CERT_FILE and REDIS_TLS_KEY_FILE are set one without the other",
            "A client certificate is a certificate and its key: set both, or neither.",
            id="agent.E049",
        )

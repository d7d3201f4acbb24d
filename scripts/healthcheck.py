"""Checks whether this container's process answers `/live`; exit code 0 or 1.

The process is the container's own (PID 1's command line), or the one named as argument: web, webhook or worker. A
scheduler, or any other command, has no port, so the check always succeeds.
"""

import os
import sys
from http.client import HTTPConnection, HTTPException

SECONDS = 5
ADDRESSES = {
    "web": ("HTTP_SERVER_ADDRESS", "0.0.0.0:8000"),
    "webhook": ("WEBHOOK_BIND", "0.0.0.0:12000"),
    "worker": ("WORKER_METRICS_ADDRESS", ""),
}


def started_process() -> str:
    with open("/proc/1/cmdline", "rb") as file:
        words = file.read().decode(errors="replace").split("\0")
    return next((word for word in words if word in ADDRESSES), "")


def answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]"))
    connection = HTTPConnection(host, int(port), timeout=SECONDS)
    try:
        connection.request("GET", "/live")
        return connection.getresponse().status == 200
    except (OSError, HTTPException) as error:
        sys.stderr.write(f"{address}/live: {error}\n")
        return False
    finally:
        connection.close()


def main(process: str) -> int:
    variable, default = ADDRESSES.get(process, ("", ""))
    address = os.environ.get(variable) or default
    return 0 if not address or answers(address) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else started_process()))

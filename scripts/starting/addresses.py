"""The addresses that the agent listens on, and a check that they are free."""

import os
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from errno import EACCES, EADDRINUSE

from scripts.starting.settings import WEBHOOK_BIND
from scripts.starting.terminal import Refused


@dataclass(frozen=True, slots=True)
class Address:
    """The address that a process listens on, and the variable that sets it."""

    variable: str
    host: str
    port: int

    @classmethod
    def of(cls, variable: str, default: str) -> "Address":
        text = os.environ.get(variable) or default
        host, colon, port = text.strip().rpartition(":")
        if not (colon and port.isdecimal() and 0 < int(port) < 65536):
            raise Refused(f"{variable}={text} is not an address: write host:port, such as {default}.")
        return cls(variable, host.strip("[]") or "0.0.0.0", int(port))

    @property
    def reachable_host(self) -> str:
        """The host under which this machine reaches it."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)

    @property
    def url(self) -> str:
        host = f"[{self.reachable_host}]" if ":" in self.reachable_host else self.reachable_host
        return f"http://{host}:{self.port}"

    def try_out(self) -> socket.socket:
        """Listens there. Raises Refused."""
        listener = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.host, self.port))
            listener.listen(1)
        except OSError as error:
            listener.close()
            raise Refused(self._complaint(error)) from error
        return listener

    def _complaint(self, error: OSError) -> str:
        if error.errno == EADDRINUSE:
            return (
                f"Port {self.port} is in use: end the program that uses it, or set {self.variable} to another address, "
                f"such as {self.host}:{self.port % 65535 + 1}, in .env or in the environment."
            )
        if error.errno == EACCES:
            return f"This user may not listen on port {self.port}: set {self.variable} to a port above 1023."
        return f"{self.variable}={self.host}:{self.port} cannot be listened on: {error.strerror or error}."


def web_address() -> Address:
    return Address.of("BIND" if os.environ.get("BIND") else "HTTP_SERVER_ADDRESS", "0.0.0.0:8000")


def check_ports() -> None:
    with ExitStack() as held:
        for address in (web_address(), Address.of("WEBHOOK_BIND", WEBHOOK_BIND)):
            held.enter_context(address.try_out())

"""nginx as a peer: in front of the agent, with the configuration that the documentation shows."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
import trustme

from tests.helpers.ports import free_port
from tests.helpers.servers import ROOT
from tests.peers.nginx import Nginx

FILE = ROOT / "deploy/nginx/serving-agent.conf"


class Front(Nginx):
    """deploy/nginx/serving-agent.conf as `localhost`, with ports and a certificate of its own, in front of `agent`.

    `more` has further changes: text in the file → its replacement.
    """

    def __init__(self, directory: Path, *, port: int, agent: str, more: dict[str, str] | None = None) -> None:
        self.port = port
        self.plain_port = free_port()
        self.https = f"https://localhost:{port}"
        self.http = f"http://localhost:{self.plain_port}"
        self._authority = directory / "ca.pem"
        self._make_certificate(directory)
        changes = {
            "server 127.0.0.1:8000;": f"server {agent};",
            "listen 80;": f"listen 127.0.0.1:{self.plain_port};",
            "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            "https://$server_name$request_uri": f"https://$server_name:{port}$request_uri",
            "/etc/ssl/certs/agent.example.com.pem": str(directory / "server.pem"),
            "/etc/ssl/private/agent.example.com.key": str(directory / "server.key"),
            "server_name agent.example.com;": "server_name localhost;",
            **(more or {}),
        }
        http = FILE.read_text()
        for documented, here in changes.items():
            assert documented in http, f"{FILE.name} has no {documented}"
            http = http.replace(documented, here)
        super().__init__(directory, http, url=self.http)

    def _make_certificate(self, directory: Path) -> None:
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost")
        authority.cert_pem.write_to_path(self._authority)
        certificate.cert_chain_pems[0].write_to_path(directory / "server.pem")
        certificate.private_key_pem.write_to_path(directory / "server.key")

    def session(self, **headers: str) -> requests.Session:
        """A caller who trusts its certificate; `headers` are sent with every request."""
        session = requests.Session()
        session.trust_env = False
        session.verify = str(self._authority)
        session.headers.update(headers)
        return session

    @contextmanager
    def connection(self, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> Iterator[ssl.SSLSocket]:
        """A connection of its own to the HTTPS port."""
        context = ssl.create_default_context(cafile=self._authority)
        context.minimum_version = context.maximum_version = version
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            yield secure

"""nginx as a peer: in the foreground, and with everything that it writes in one directory."""

import os
import pwd
import shutil
import subprocess
from pathlib import Path

from tests.peers.peers import Peer

MISSING = "this test needs nginx in PATH: apt install nginx-light"

CONFIGURATION = """
daemon off;
{user}
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log info;
events {{ worker_connections 256; }}
http {{
    access_log {directory}/access.log;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;

    {http}
}}
"""


class Nginx(Peer):
    """nginx with `http` as its servers; it has started when it answers at `url`."""

    def __init__(self, directory: Path, http: str, *, url: str) -> None:
        nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        assert nginx, MISSING
        user = f"user {pwd.getpwuid(0).pw_name} root;" if os.geteuid() == 0 else ""
        file = directory / "nginx.conf"
        file.write_text(CONFIGURATION.format(directory=directory, user=user, http=http))
        super().__init__(
            [nginx, "-p", str(directory), "-e", str(directory / "error.log"), "-c", str(file)],
            url=url,
            log=directory / "nginx.log",
            environment={},
        )

    def check_configuration(self) -> str:
        """What `nginx -t` prints."""
        checked = subprocess.run([*self.command, "-t"], capture_output=True, text=True, check=False)
        return checked.stderr

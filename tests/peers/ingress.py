"""nginx as a peer: the ingress in front of the model servers, which routes on the Host header."""

import json
from pathlib import Path
from typing import Any

from tests.helpers.ports import free_port
from tests.peers.nginx import Nginx

HTTP = """
    log_format calls escape=json
        '{{"connection":$connection,"method":"$request_method","uri":"$request_uri","status":$status,'
        '"host":"$http_host","content_type":"$http_content_type","upstream":"$upstream_addr"}}';
    access_log {directory}/access.jsonl calls;

    limit_req_zone $server_name zone=scarce:1m rate=5r/s;
    limit_req_status 429;

    upstream models {{ server {models}; keepalive 16; }}
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $http_host;

    server {{
        listen {address} default_server;
        location = /nginx {{ access_log off; return 204; }}
        location / {{ return 404; }}
    }}
    server {{
        listen {address};
        server_name iris.default.example.com moods.default.example.com absent.default.example.com;
        location / {{ proxy_pass http://models; }}
    }}
    server {{
        # raw deployments
        listen {address};
        server_name moods-ml.models.test;
        location / {{ proxy_pass http://models; }}
    }}
    server {{
        # the gateway gives up waiting
        listen {address};
        server_name moods.hasty.example.com;
        location / {{ proxy_pass http://models; proxy_read_timeout 1s; }}
    }}
    server {{
        # its backend is down
        listen {address};
        server_name iris.down.example.com;
        location / {{ proxy_pass http://{unused}; }}
    }}
    server {{
        # like an ingress with TLS, it redirects plain HTTP
        listen {address};
        server_name iris.moved.example.com;
        location / {{ return 308 http://iris.default.example.com:{port}$request_uri; }}
    }}
    server {{
        # `:predict/`, which the model server itself redirects
        listen {address};
        server_name iris.slash.example.com;
        location / {{ rewrite ^(.*)$ $1/ break; proxy_pass http://models; }}
    }}
    server {{
        listen {address};
        server_name iris.empty.example.com;
        location / {{ return 404 ""; }}
    }}
    server {{
        # five a second, the others 429
        listen {address};
        server_name iris.scarce.example.com;
        location / {{ limit_req zone=scarce; proxy_pass http://models; }}
    }}
    server {{
        # an idle connection does not live long
        listen {address};
        server_name iris.brief.example.com;
        keepalive_timeout 1s;
        location / {{ proxy_pass http://models; }}
    }}
"""


class Ingress(Nginx):
    """Answers 404 for any unknown host."""

    def __init__(self, directory: Path, *, models: str) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self._directory = directory
        http = HTTP.format(
            directory=directory,
            address=self.address,
            port=port,
            models=models,
            unused=f"127.0.0.1:{free_port()}",
        )
        super().__init__(directory, http, url=f"http://{self.address}/nginx")

    def requests(self) -> list[dict[str, Any]]:
        """Its access log: `connection` (a number), `method`, `uri`, `status`, `host`, `content_type`, `upstream`."""
        lines = (self._directory / "access.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

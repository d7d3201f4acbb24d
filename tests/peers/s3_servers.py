"""Two S3-compatible servers as peers, both without Docker: moto (Python) and s3rver (Node.js)."""

import fcntl
import shutil
import subprocess
from pathlib import Path
from typing import Any

import boto3
from botocore.client import Config

from tests.helpers.ports import free_port
from tests.helpers.virtualenvs import DIRECTORY, Environment, EnvironmentNotMadeError
from tests.peers.peers import Peer

MOTO = Environment("moto", ("moto[s3,server]==5.2.5",), pythons=("3.13", "3.12", "3.11"))
S3RVER_VERSION = "3.7.1"
REGION = "eu-central-1"
NPM_OPTIONS = ("--no-audit", "--no-fund", "--fetch-retry-mintimeout=500", "--fetch-retry-maxtimeout=2000")
NPM_SECONDS = 120


class S3(Peer):
    """`kind` is "moto" or "s3rver"; it stores objects in `directory`, or in its memory."""

    def __init__(self, kind: str, directory: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.key = self.secret = "S3RVER"  # the one pair that s3rver knows; moto takes any
        command = moto(port) if kind == "moto" else s3rver(port, directory)
        super().__init__(command, url=self.url, log=directory / f"{kind}.log", environment={})

    @property
    def client(self) -> Any:
        """The test's own eyes: boto3, with other options than the agent's."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name=REGION,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )

    def make_bucket(self, name: str) -> None:
        self.client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})

    def objects(self, bucket: str) -> list[str]:
        return [entry["Key"] for entry in self.client.list_objects_v2(Bucket=bucket).get("Contents", [])]

    def agent_environment(self, bucket: str) -> dict[str, str]:
        return {
            "AWS_BUCKET": bucket,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": REGION,
        }


def moto(port: int) -> list[str]:
    MOTO.ready()
    return [str(MOTO.path / "bin" / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]


def s3rver(port: int, directory: Path) -> list[str]:
    program = installed_s3rver() / "node_modules" / "s3rver" / "bin" / "s3rver.js"
    kept = directory / "objects"
    kept.mkdir()
    return ["node", str(program), "-d", str(kept), "-a", "127.0.0.1", "-p", str(port), "--no-vhost-buckets"]


def installed_s3rver() -> Path:
    """Its directory in var/peers, made if it was not there or not whole. Raises EnvironmentNotMadeError."""
    directory = DIRECTORY / f"s3rver-{S3RVER_VERSION}"
    mark = directory / "COMPLETE"
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    with directory.with_name(f"{directory.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not mark.exists():
            if not shutil.which("npm"):
                raise EnvironmentNotMadeError("s3rver needs npm in PATH")
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            ended = subprocess.run(
                ["npm", "install", *NPM_OPTIONS, "--prefix", str(directory), f"s3rver@{S3RVER_VERSION}"],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=NPM_SECONDS,
            )
            if ended.returncode:
                raise EnvironmentNotMadeError(f"s3rver could not be installed:\n{ended.stdout}")
            mark.write_text(S3RVER_VERSION)
    return directory

"""The project's own files agree: version, licence, changelog, supported Pythons, pins and addresses."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from rest_framework.test import APIClient

from config import __version__
from scripts.locks import pins
from tests.helpers.deployment_tools import TOOLS
from tests.helpers.servers import ROOT

URL = "https://github.com/serving-agent/serving-agent"
APACHE_2_0 = "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4"
"""SHA-256 of the licence's text at apache.org, without the empty line at its beginning."""
CHANGES = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
"""The kinds of changes in Keep a Changelog, in its order."""
GUIDES = ["CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "CHANGELOG.md"]


def read(name: str) -> str:
    return (ROOT / name).read_text()


def load(name: str) -> Any:
    return yaml.safe_load(read(name))


PYPROJECT = tomllib.loads(read("pyproject.toml"))
PROJECT = PYPROJECT["project"]
CHANGELOG = read("CHANGELOG.md")
RELEASES = re.findall(r"^## \[(\S+)\](?: - (\S+))?$", CHANGELOG, re.MULTILINE)
PYTHONS = [
    name.removeprefix("Programming Language :: Python :: ")
    for name in PROJECT["classifiers"]
    if name.startswith("Programming Language :: Python :: 3.")
]


def tracked() -> list[Path]:
    """The files of the project, in a checkout or a copy of one."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


# --- the version


def test_pyproject_takes_the_version_from_the_one_place() -> None:
    assert "version" in PROJECT["dynamic"]
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "config.__version__"}
    assert settings.VERSION == __version__ == str(Version(__version__))


def test_no_other_code_spells_the_version_out() -> None:
    code = [path for path in tracked() if path.suffix in (".py", ".toml", ".html") and "tests" not in path.parts]
    assert [path for path in code if f'"{__version__}"' in path.read_text()] == [ROOT / "config/__init__.py"]


def test_the_api_says_the_version(client: APIClient) -> None:
    assert client.get("/", headers={"Accept": "application/json"}).json() == {
        "name": "serving-agent",
        "version": __version__,
    }
    assert client.get("/openapi.json").json()["info"]["version"] == __version__


def test_the_metrics_say_the_version(client: APIClient) -> None:
    (line,) = re.findall(r"^build_info\{.*$", client.get("/metrics").content.decode(), re.MULTILINE)
    assert f'version="{__version__}"' in line
    assert line.endswith("} 1.0")


@pytest.mark.parametrize("settings_are_right", [True, False])
def test_manage_py_says_the_version(settings_are_right: bool) -> None:
    """Also without a database, and in a deployment that does not start."""
    environment = {"PATH": os.environ["PATH"], "ENV_FILE": os.devnull}
    if not settings_are_right:
        environment |= {"WEB_CONCURRENCY": "many"}
    told = subprocess.run(
        [sys.executable, "manage.py", "version", "--json"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(told.stdout)["version"] == __version__


def test_pages_and_manifests_name_this_version() -> None:
    """As an image's tag, or as a tag of the repository."""
    named = {}
    for path in tracked():
        if path.suffix in (".md", ".yaml", ".yml") and path.name != "CHANGELOG.md":
            found = re.findall(r"(?:serving-agent:v?|newTag: |\?ref=v)(\d+\.\d+\.\d+)", path.read_text())
            named |= {str(path.relative_to(ROOT)): found} if found else {}
    assert "deploy/kubernetes/example/kustomization.yaml" in named
    assert {name for found in named.values() for name in found} == {__version__}, named


def test_the_security_policy_supports_this_version() -> None:
    release = Version(__version__)
    assert f"| {release.major}.{release.minor}.x | yes |" in read("SECURITY.md")


# --- the changelog


def test_the_changelog_has_this_version_below_what_is_unreleased() -> None:
    assert RELEASES[0] == ("Unreleased", "")
    assert RELEASES[1][0] == __version__


def test_the_changelogs_releases_are_dated_and_in_order() -> None:
    released = RELEASES[1:]
    assert len(released) == len(re.findall(r"^## ", CHANGELOG, re.MULTILINE)) - 1
    assert all(
        Version(newer) > Version(older) and date.fromisoformat(later) >= date.fromisoformat(earlier)
        for (newer, later), (older, earlier) in pairwise(released)
    )


def test_the_changelog_has_the_kinds_of_changes_of_its_format() -> None:
    for release in re.split(r"^## ", CHANGELOG, flags=re.MULTILINE)[1:]:
        kinds = re.findall(r"^### (.*)$", release, re.MULTILINE)
        assert kinds == [kind for kind in CHANGES if kind in kinds]


def test_each_heading_of_the_changelog_links_to_its_changes() -> None:
    names = [name for name, _ in RELEASES]
    links = dict(re.findall(r"^\[(\S+)\]: (\S+)$", CHANGELOG, re.MULTILINE))
    assert list(links) == names
    assert links["Unreleased"] == f"{URL}/compare/v{__version__}...HEAD"
    for newer, older in pairwise(names[1:]):
        assert links[newer] == f"{URL}/compare/v{older}...v{newer}"
    assert links[names[-1]] == f"{URL}/releases/tag/v{names[-1]}"


# --- licence and addresses


def test_the_licence_is_apache_2_0_wherever_it_is_named() -> None:
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes().lstrip(b"\n")).hexdigest() == APACHE_2_0
    assert (PROJECT["license"], PROJECT["license-files"]) == ("Apache-2.0", ["LICENSE"])
    assert 'org.opencontainers.image.licenses="Apache-2.0"' in read("Dockerfile")
    assert "!LICENSE" in read(".dockerignore").splitlines()


def test_the_projects_files_name_one_repository() -> None:
    files = ["pyproject.toml", "Dockerfile", *GUIDES, ".github/ISSUE_TEMPLATE/config.yml"]
    named = {url for name in files for url in re.findall(r"https://github\.com/[\w.-]+/[\w.-]+", read(name))}
    assert named == {URL}
    assert all(url.startswith(URL) for url in PROJECT["urls"].values())


@pytest.mark.parametrize("guide", GUIDES)
def test_links_and_scripts_in_the_guides_exist(guide: str) -> None:
    text = read(guide)
    links = set(re.findall(r"\]\((?!https?:|#)([^)#]+)", text)) | set(re.findall(r"\bscripts/[a-z-]+\b", text))
    assert {name for name in links if not (ROOT / name).exists()} == set()


def test_contributors_set_up_and_test_as_the_guide_says() -> None:
    text = read("CONTRIBUTING.md")
    assert "scripts/run --prepare requirements-dev.lock" in text
    assert "scripts/run --prepare requirements-dev.lock" in read("scripts/test")
    assert {path for path in re.findall(r"\btests/\S+\.py\b", text) if not (ROOT / path).exists()} == set()


# --- Pythons and pins


def test_the_supported_pythons_are_the_same_everywhere() -> None:
    oldest = PYTHONS[0]
    assert PROJECT["requires-python"] == f">={oldest}"
    assert all(python in SpecifierSet(PROJECT["requires-python"]) for python in PYTHONS)
    assert load(".github/workflows/test.yml")["jobs"]["test"]["strategy"]["matrix"]["python"] == PYTHONS
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert PYPROJECT["tool"]["mypy"]["python_version"] == oldest
    assert f"--python-version {oldest} " in read("scripts/lock")
    assert set(re.findall(r"^FROM python:(\d+\.\d+)", read("Dockerfile"), re.MULTILINE)) <= set(PYTHONS)
    assert ", ".join(PYTHONS[:-1]) in " ".join(read("CONTRIBUTING.md").split())


def test_the_workflow_runs_all_tests_from_the_lock() -> None:
    steps = load(".github/workflows/test.yml")["jobs"]["test"]["steps"]
    assert steps[-1]["run"] == "scripts/test"
    (python,) = [step["with"] for step in steps if step.get("uses", "").startswith("actions/setup-python@")]
    assert python["python-version"] == "${{ matrix.python }}"
    assert (ROOT / python["cache-dependency-path"]).is_file()


def test_pre_commit_runs_the_same_ruff_as_scripts_check() -> None:
    repos = {Path(repo["repo"]).name: repo for repo in load(".pre-commit-config.yaml")["repos"]}
    assert repos["ruff-pre-commit"]["rev"] == f"v{pins(ROOT / 'requirements-dev.txt')['ruff']}"


def test_editors_wrap_lines_where_ruff_does() -> None:
    assert f"max_line_length = {PYPROJECT['tool']['ruff']['line-length']}\n" in read(".editorconfig")


def test_dependabot_looks_where_pins_are() -> None:
    updates = load(".github/dependabot.yml")["updates"]
    looked = [update["directory"] for update in updates if update["package-ecosystem"] == "pip"]
    assert looked == ["/", *(f"/{path.parent.name}" for path in ROOT.glob("*/requirements.txt"))]
    others = {update["package-ecosystem"] for update in updates} - {"pip"}
    assert others == {"docker", "docker-compose", "github-actions"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", [".github/workflows/test.yml"]),
        ("vendor.dependabot", [".github/dependabot.yml"]),
        ("vendor.github-issue-config", [".github/ISSUE_TEMPLATE/config.yml"]),
        ("vendor.github-issue-forms", [".github/ISSUE_TEMPLATE/bug.yml", ".github/ISSUE_TEMPLATE/feature.yml"]),
    ],
)
def test_github_understands_its_files(schema: str, files: list[str]) -> None:
    program = TOOLS.ready().path / "bin" / "check-jsonschema"
    told = subprocess.run([program, "--builtin-schema", schema, *files], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout

"""The documents against the code: routes, settings, errors, processes, commands and claims."""

import ast
import re
from typing import Any

import pytest
import yaml
from django.conf import settings
from django.core.management import get_commands
from django.db.backends.postgresql.features import DatabaseFeatures

from predictions.admin import task_list
from predictions.api import errors
from predictions.management.commands import queue, tasks
from predictions.models import Task
from predictions.operations import maintenance, statistics
from predictions.operations.diagnosis import checks
from predictions.operations.diagnosis.queueing import NEEDED_VERSION
from predictions.queue.queue import MAX_ATTEMPTS
from predictions.server.protocol_errors import PROTOCOL_ERRORS
from scripts.starting.settings import SETTINGS as SETTINGS_OF_SCRIPTS_RUN
from tests.helpers.pages import (
    CLAIMS,
    DEPLOYING,
    NGINX,
    OPERATING,
    README,
    REFERENCE,
    RELIABILITY,
    UPGRADING,
    documented_production,
    table,
    word,
)
from tests.helpers.routes import documented_routes
from tests.helpers.servers import ROOT, procfile
from tests.helpers.settings import SETTINGS


def test_every_setting_is_in_the_reference_and_nothing_else() -> None:
    documented = [word(row[0]) for row in table("variable")]
    assert sorted(documented) == sorted(SETTINGS)


@pytest.mark.parametrize("row", table("variable"), ids=lambda row: word(row[0]))
def test_the_reference_says_a_settings_default(row: list[str]) -> None:
    default = SETTINGS[word(row[0])]
    if default is not None:
        assert word(row[1]) == default


def test_the_reference_names_every_platform_of_the_settings() -> None:
    (row,) = [row for row in table("variable") if word(row[0]) == "ML_PLATFORM"]
    assert set(re.findall(r"`(\w+)`", row[2])) == set(settings.PLATFORMS)


def test_every_setting_is_in_the_example_environment() -> None:
    text = (ROOT / ".env.example").read_text()
    assert sorted(SETTINGS) == sorted(
        set(re.findall(r"^#? ?([A-Z][A-Z0-9_]+)=", text, re.MULTILINE)) - {"BIND", "WEBHOOK_BIND"}
    )


def variables_of_the_deployment() -> dict[str, set[str]]:
    """File → the variables that it gives to the agent's processes."""
    kubernetes = ROOT / "deploy/kubernetes"
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    found = {
        "docker-compose.yml": set(compose["x-agent"]["environment"]),
        "Dockerfile": set(
            re.findall(r"^(?:ENV| {4}) *([A-Z][A-Z_]+)=", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        ),
    }
    for file in (*kubernetes.rglob("*.env"), *kubernetes.rglob("*.env.example")):
        found[file.name] = set(re.findall(r"^([A-Z][A-Z0-9_]+)=", file.read_text(), re.MULTILINE))
    for file in kubernetes.rglob("*.yaml"):
        for thing in yaml.safe_load_all(file.read_text()):
            literals = [line for made in thing.get("configMapGenerator", []) for line in made.get("literals", [])]
            found.setdefault(str(file), set()).update(line.split("=")[0] for line in literals)
            pod = thing.get("spec", {}).get("template", {}).get("spec", {})
            for part in (*pod.get("initContainers", []), *pod.get("containers", [])):
                if part["image"] == "serving-agent":
                    found[str(file)].update(variable["name"] for variable in part.get("env", []))
    return found


# Variables of others: Python's and the shell's in the image, the Procfile's, PostgreSQL's.
NO_SETTINGS = {"PATH", "HOME", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "WEBHOOK_BIND", "POSTGRES_PASSWORD"}


def test_every_variable_of_the_deployment_is_a_setting() -> None:
    found = variables_of_the_deployment()
    assert {"REDIS_ADDRESS", "MEDIA_ROOT", "SECRET_KEY", "TASK_TYPE_NAME"} <= set().union(*found.values())
    assert {
        file: names - set(SETTINGS) - NO_SETTINGS
        for file, names in found.items()
        if names - set(SETTINGS) - NO_SETTINGS
    } == {}


@pytest.mark.parametrize("page", ["deploying", "operating", "platforms", "reference", "upgrading"])
def test_a_variable_that_a_page_names_is_a_setting(page: str) -> None:
    named = set(re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)(?:=[^`]*)?`", (ROOT / f"docs/{page}.md").read_text()))
    assert named
    assert named - set(SETTINGS) <= {"WEB_ADDRESS", "SSL_CERT_FILE", "RQ_KEY_PREFIX"}


def test_the_line_that_the_platforms_page_replaces_is_in_the_settings_that_scripts_run_writes() -> None:
    page = (ROOT / "docs/platforms.md").read_text()
    replaced = re.search(r"In `\.env`, replace the line `(.*?)`", page)
    assert replaced
    assert replaced[1] in SETTINGS_OF_SCRIPTS_RUN.splitlines()


def test_scripts_run_starts_the_example_models_at_the_address_that_the_readme_says() -> None:
    written = dict(re.findall(r"^([A-Z_]+)=(.*)$", SETTINGS_OF_SCRIPTS_RUN, re.MULTILINE))
    assert set(re.findall(r"http://127\.0\.0\.1:\d+", README)) == {f"http://{written['HTTP_SERVER_ADDRESS']}"}
    assert (written["ML_PLATFORM"], SETTINGS["LOCAL_PREDICTOR"]) == ("local", "examples:models")


def test_a_file_that_a_page_names_exists() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
    for part in re.findall(
        r"`((?:base|components|overlays|example)[a-z/.-]*)`", (ROOT / "docs/deploying.md").read_text()
    ):
        assert (ROOT / "deploy/kubernetes" / part).exists(), part


def functions_of(file: str) -> set[str]:
    """The tests in a file of tests/."""
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def last_cells(page: str) -> list[str]:
    """The last cell of each row of the page's tables, but for their heads."""
    rows = re.sub(r"^\| .*\n\|---.*\n", "", page, flags=re.MULTILINE).splitlines()
    return [row.removesuffix(" |").rpartition(" | ")[2] for row in rows if row.startswith("| ")]


@pytest.mark.parametrize("page", [RELIABILITY, CLAIMS], ids=["reliability", "claims"])
def test_each_promise_and_claim_names_tests_that_exist(page: str) -> None:
    cells = last_cells(page)
    assert len(cells) > 30
    for cell in cells:
        named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", cell)
        assert named, cell
        for file, function in named:
            assert (ROOT / "tests" / file).exists(), file
            assert not function or function in functions_of(file), f"{file}::{function}"


def headings_of(page: str) -> list[str]:
    """Without those of examples in a block of code."""
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    return re.findall(r"^#{1,3} (.*)$", text, re.MULTILINE)


PAGES = ["README", "reference", "deploying", "upgrading", "operating", "platforms", "performance", "examples/iris"]
WITHOUT_CLAIMS = {("deploying", "Deploying"), ("README", "Documents")}


def test_the_claims_are_grouped_by_page() -> None:
    assert list(dict.fromkeys(re.findall(r"^### (\S+): ", CLAIMS, re.MULTILINE))) == PAGES


@pytest.mark.parametrize("page", PAGES)
def test_the_claims_of_each_section_of_a_page_are_listed(page: str) -> None:
    listed = re.findall(rf"^### {page}: (.*)$", CLAIMS, re.MULTILINE)
    file = {"README": "README.md", "examples/iris": "examples/iris/README.md"}.get(page, f"docs/{page}.md")
    assert [heading for heading in headings_of(file) if (page, heading) not in WITHOUT_CLAIMS] == listed


def test_each_difference_from_the_original_names_a_test_that_exists() -> None:
    known = functions_of("e2e/test_from_the_original.py")
    for cell in last_cells((ROOT / "docs/from-the-original.md").read_text()):
        named = re.findall(r"`(test_\w+)`", cell)
        assert named or cell == "the same", cell
        assert set(named) <= known, cell


def test_the_deploying_page_names_the_oldest_postgresql_and_redis_that_the_agent_accepts() -> None:
    assert f"PostgreSQL ({DatabaseFeatures.minimum_database_version[0]} or later)" in DEPLOYING
    assert f"Redis ({'.'.join(map(str, NEEDED_VERSION))} or later, or Valkey)" in DEPLOYING


def ingress_annotations() -> dict[str, str]:
    ingress = yaml.safe_load((ROOT / "deploy/kubernetes/components/ingress/ingress.yaml").read_text())
    return {key.rpartition("/")[2]: value for key, value in ingress["metadata"]["annotations"].items()}


def test_the_table_of_proxy_settings_has_the_ingress_annotations() -> None:
    shown = dict(
        word(row[2]).split(": ") for row in table("what | why", DEPLOYING) if word(row[2]).startswith("proxy-")
    )
    assert {*shown, "proxy-send-timeout"} == set(ingress_annotations())
    assert shown.items() <= ingress_annotations().items()


def test_the_table_of_proxy_settings_has_the_agents_limits() -> None:
    (bodies,) = [row[1] for row in table("what | why", DEPLOYING) if row[0].startswith("bodies")]
    megabytes = dict(re.findall(r"`(\w+)` (?:is )?(\d+) MiB", bodies))
    assert {name: int(size) * 1024**2 for name, size in megabytes.items()} == {
        "MAX_REQUEST_BODY": settings.MAX_REQUEST_BODY,
        "MAX_UPLOAD_SIZE": settings.MAX_UPLOAD_SIZE,
    }


def test_the_gateways_route_leads_to_the_service_and_waits_as_long_as_a_task_may_run() -> None:
    (block,) = re.findall(r"```yaml\n(apiVersion: gateway.*?)```", DEPLOYING, re.DOTALL)
    route: dict[str, Any] = yaml.safe_load(block)["spec"]
    service = yaml.safe_load((ROOT / "deploy/kubernetes/base/service.yaml").read_text())
    (rule,) = route["rules"]
    (backend,) = rule["backendRefs"]
    assert backend["name"] == service["metadata"]["name"]
    assert backend["port"] in {port["port"] for port in service["spec"]["ports"]}
    assert set(rule["timeouts"]) == {"request", "backendRequest"}
    assert all(int(seconds.removesuffix("s")) > settings.TASK_TIMEOUT for seconds in rule["timeouts"].values())


def test_the_settings_for_nginx_are_those_of_production_and_the_agent_listens_where_nginx_asks() -> None:
    (block,) = re.findall(r"settings to go with it.*?```sh\n(.*?)```", DEPLOYING, re.DOTALL)
    shown = dict(line.split("=", 1) for line in block.splitlines())
    assert f"server {shown.pop('HTTP_SERVER_ADDRESS')};" in NGINX
    assert f"server_name {shown['ALLOWED_HOSTS']};" in NGINX
    assert shown.items() <= documented_production().items()


def test_the_systemd_unit_runs_the_procfiles_web_and_waits_for_predictions_in_flight() -> None:
    (unit,) = re.findall(r"```ini\n(.*?)```", DEPLOYING, re.DOTALL)
    lines = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line)
    assert lines["ExecStart"] == f"{lines['WorkingDirectory']}/.venv/bin/{procfile()['web']}"
    assert int(lines["TimeoutStopSec"]) > settings.TASK_TIMEOUT + 10  # gunicorn's own, config/gunicorn.py
    assert (lines["Restart"], lines["KillMode"]) == ("always", "control-group")


def in_nginx(directive: str, unit: str) -> list[int]:
    """The values of a directive of the nginx configuration."""
    return [int(value) for value in re.findall(rf"^ *{directive} (\d+){unit};", NGINX, re.MULTILINE)]


def test_nginx_limits_are_wider_than_the_agents() -> None:
    everywhere, uploads = (megabytes * 1024**2 for megabytes in in_nginx("client_max_body_size", "m"))
    assert everywhere > max(settings.MAX_REQUEST_BODY, settings.MAX_UPLOAD_SIZE)
    assert uploads > settings.MAX_UPLOAD_SIZE * 10
    for directive in ("proxy_read_timeout", "proxy_send_timeout"):
        (seconds,) = in_nginx(directive, "s")
        assert seconds > settings.TASK_TIMEOUT


def test_nginx_closes_an_idle_connection_before_the_agent_does() -> None:
    kept = re.search(r"^keepalive = (\d+)$", (ROOT / "config/gunicorn.py").read_text(), re.MULTILINE)
    assert kept
    (seconds,) = in_nginx("keepalive_timeout", "s")
    assert seconds < int(kept[1])


def test_every_route_is_in_the_reference_and_nothing_else() -> None:
    documented = {(word(row[0]), row[1]) for row in table("route")} - {("/admin/", "GET")}
    assert documented == documented_routes("config.urls")
    assert documented_routes("webhooks.urls") <= documented


def test_the_webhook_process_serves_the_documented_routes() -> None:
    callers = {"record client", "caller, record client", "a running task's model", "anyone with the name"}
    its_own = {(word(row[0]), row[1]) for row in table("route") if row[2] in callers}
    assert documented_routes("webhooks.urls") == its_own | {("/live", "GET"), ("/ready", "GET")}


def test_every_error_code_is_in_the_reference() -> None:
    documented = {
        (int(status), code)
        for row in table("status")
        for status, code in zip(
            row[0].split(", ") * (2 if ", " not in row[0] else 1), re.findall(r"`(\w+)`", row[1]), strict=False
        )
    }
    in_code = {(status, code) for _, status, code, _ in errors.TABLE if status}
    in_code |= {(status, code) for _, (status, _, code, _) in PROTOCOL_ERRORS}
    assert in_code | {(500, "internal_error"), (409, "already_exists"), (413, "upload_too_large")} == documented


def test_every_process_is_in_the_reference() -> None:
    assert [word(row[0]) for row in table("process")] == list(procfile())


def test_the_reference_says_where_the_webhook_process_listens_and_which_processes_are_commands() -> None:
    (webhook,) = [row for row in table("process") if word(row[0]) == "webhook"]
    assert re.findall(r"port (\d+)", webhook[1]) == re.findall(r"WEBHOOK_BIND:-\S+:(\d+)}", procfile()["webhook"])
    named = {word(row[0]): re.findall(r"the Procfile's `(\w+)`", row[1]) for row in table("command")}
    assert {command: names[0] for command, names in named.items() if names} == {
        line.removeprefix("python manage.py "): name
        for name, line in procfile().items()
        if re.fullmatch(r"python manage\.py \w+", line)
    }


def test_a_permission_that_the_reference_names_is_one_of_the_tasks() -> None:
    section = REFERENCE.partition("## Permissions\n")[2]
    known = {"Can view task", *(name for _, name in Task._meta.permissions)}
    assert set(re.findall(r"\*(Can [^*]+)\*", " ".join(section.split()))) == known


def test_every_command_is_in_the_reference_and_nothing_else() -> None:
    commands = {path.stem for path in (ROOT / "predictions/management/commands").glob("[!_]*.py")}
    assert {word(row[0]) for row in table("command")} == commands


def test_the_upgrading_page_releases_without_containers_as_the_procfile_does() -> None:
    section = UPGRADING.partition("## Without containers\n")[2].partition("\n## ")[0]
    (shown,) = re.findall(r"```sh\n(.*?)\n```", section, re.DOTALL)
    assert shown == procfile()["release"].removesuffix(" --verbosity 0")


def test_a_command_that_the_documentation_names_exists() -> None:
    within = {"tasks": tasks.COMMANDS, "queue": queue.COMMANDS}
    pages = {path.name: path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
    for page, text in pages.items():
        for name, second in re.findall(r"manage\.py ([a-z_]+)(?: ([a-z-]+))?", text):
            assert name in get_commands(), f"{page}: manage.py {name}"
            if name in within and second:
                assert second in within[name], f"{page}: manage.py {name} {second}"


def test_every_part_that_doctor_looks_at_is_in_the_operating_page() -> None:
    assert [row[0] for row in table("part", OPERATING)] == list(checks())


def test_every_failure_that_the_operating_page_explains_is_one_of_the_agents() -> None:
    code = "".join(path.read_text() for path in (ROOT / "predictions").rglob("*.py"))
    for row in table("`error_info`", OPERATING):
        sentence = re.sub(r"\d", r"(\\d|\\{[\\w.]+\\})", re.escape(word(row[0])))
        assert re.search(f'"{sentence}"', code), row[0]


@pytest.mark.parametrize(
    "sentence",
    [
        f"The list ends after {task_list.PAGES} pages",
        f"Its percentiles are those of the latest {statistics.SAMPLE:,} tasks",
        "The purge deletes a thousand tasks at a time" if maintenance.PURGE_BATCH == 1000 else "another number",
        f"`its worker was lost {MAX_ATTEMPTS} times`",
    ],
)
def test_the_numbers_of_the_operating_page_are_those_of_the_code(sentence: str) -> None:
    assert sentence in OPERATING


def test_a_workload_that_a_page_names_is_in_the_manifests() -> None:
    files = (ROOT / "deploy/kubernetes").rglob("*.yaml")
    objects = [thing for file in files for thing in yaml.safe_load_all(file.read_text()) if "metadata" in thing]
    known = {f"{thing['kind']}/{thing['metadata'].get('name')}" for thing in objects}
    kinds = {"deploy": "Deployment", "sts": "StatefulSet", "job": "Job", "svc": "Service"}
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for kind, name in re.findall(rf"\b({'|'.join(kinds)})/(serving-agent[\w-]*)", page.read_text()):
            assert f"{kinds[kind]}/{name}" in known, f"{page.name}: {kind}/{name}"


def test_every_status_is_in_the_operating_page() -> None:
    assert [word(row[0]) for row in table("status", OPERATING)] == Task.Status.values


def test_every_test_file_that_a_page_names_exists() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for name in re.findall(r"test_\w+\.py", page.read_text()):
            assert list((ROOT / "tests").rglob(name)), f"{page.name}: {name}"


@pytest.mark.parametrize("page", ["README.md", "docs/reference.md", "docs/platforms.md", "examples/iris/README.md"])
def test_a_command_for_a_checkout_names_a_python_that_is_there(page: str) -> None:
    """Debian has no `python`, and its `python3` does not have the agent's packages."""
    commands = re.findall(r"(\S*\bpython3?) (manage\.py|-\w)", (ROOT / page).read_text())
    assert commands
    for python, what in commands:
        allowed = {".venv/bin/python"} if what == "manage.py" else {".venv/bin/python", "python3"}
        assert python.lstrip("(`") in allowed, f"{python} {what}"


def test_the_readme_shows_commands_to_copy_into_a_checkout() -> None:
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
    assert re.findall(r"^(\S+) manage\.py", shell, re.MULTILINE) == [".venv/bin/python"] * shell.count("manage.py")
    assert "manage.py" in shell


def test_the_operating_page_says_first_how_commands_are_run() -> None:
    top = OPERATING.partition("\n## ")[0]
    assert "`.venv/bin/python manage.py" in top
    assert "`python manage.py" in top

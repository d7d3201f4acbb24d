"""`manage.py doctor`: checks this deployment and says how to fix it."""

import sys
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser

from platforms import Level
from predictions.management.output import AgentCommand, printable
from predictions.operations.diagnosis import checks, diagnose, worst

INDENT = " " * 26


class Command(AgentCommand):
    help = """\
Looks at settings, database, Redis, queue, workers, record service, storage, upload address and platform, as this
process's environment has them, and says for each whether it is ok, a warning or a problem, and how to mend it. It runs
no prediction and changes nothing (the storage takes a small file and deletes it). The exit code is 1 where there is a
problem; warnings do not count."""
    examples = """\
  manage.py doctor
  manage.py doctor --model iris          is this model ready? (on platforms that can tell)
  manage.py doctor --json                {"level", "findings": [{"part", "level", "message", "hint"}]}"""
    requires_system_checks = []  # they are among the findings

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--model", default=settings.MODEL_NAME, help="the model to ask the platform about")

    def handle(self, *args: Any, model: str, **options: Any) -> None:
        styles = {Level.OK: self.style.SUCCESS, Level.WARNING: self.style.WARNING, Level.PROBLEM: self.style.ERROR}
        findings = []
        for finding in diagnose(checks(model)):
            findings.append(finding)
            if not self.as_json:
                level = styles[finding.level](f"{finding.level:8}")
                hint = f"\n{INDENT}{printable(finding.hint)}" if finding.hint else ""
                self.answer_line(None, f"{level} {finding.part:16} {printable(finding.message)}{hint}")
        level = worst(findings)
        if self.as_json:
            self.answer({"level": level, "findings": [asdict(finding) for finding in findings]}, "")
        if level is Level.PROBLEM:
            sys.exit(1)

"""Supervises all processes of the Procfile, and stops them together."""

import json
import os
import queue
import signal
import threading
import time
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from types import FrameType
from typing import Any

from honcho.manager import Manager
from honcho.printer import Printer
from honcho.process import Process

from scripts.starting.addresses import Address
from scripts.starting.embedded_redis import EmbeddedRedis
from scripts.starting.signals import catch_signals, signal_group, signal_name
from scripts.starting.terminal import say, terminal

PATIENCE_SECONDS = 10
"""Time for each step of a shutdown: finish predictions, requeue them, kill the processes."""
BOOT_PATIENCE_SECONDS = 3
"""The same before /ready has answered 200, when no predictions run."""
SLOW_START_SECONDS = 30


class Watched(Process):
    """honcho's process. It also stops its program if this script is killed."""

    def run(self, events: Any = None, ignore_signals: bool = False) -> None:
        threading.Thread(target=self._outlive, args=(os.getppid(),), daemon=True).start()
        super().run(events, ignore_signals)

    def _outlive(self, parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(1)
        for step in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            number: int = step
            deadline = time.monotonic() + PATIENCE_SECONDS
            while signal_group(self._child.pid, number) and time.monotonic() < deadline:
                number = 0  # only tests whether the group still exists
                self._child.poll()
                time.sleep(0.1)
        os._exit(1)


class Readiness(threading.Thread):
    """Calls `GET /ready` until it answers 200."""

    def __init__(self, address: Address) -> None:
        super().__init__(daemon=True)
        self.address = address
        self.reached = threading.Event()
        self.complaint = "it does not answer yet"
        hosts = [host.strip() for host in os.environ.get("ALLOWED_HOSTS", "").split(",")]
        self._headers = {"Host": hosts[0].lstrip(".")} if hosts[0].strip("*") else {}

    def run(self) -> None:
        while not self.reached.is_set():
            with suppress(OSError, HTTPException, ValueError):
                self._ask()
            time.sleep(0.1)

    def _ask(self) -> None:
        connection = HTTPConnection(self.address.reachable_host, self.address.port, timeout=5)
        try:
            connection.request("GET", "/ready", headers=self._headers)
            answer = connection.getresponse()
            if answer.status == 200:
                self.reached.set()
            else:
                self.complaint = f"/ready answers {answer.status}"
                self.complaint = json.load(answer)["error"]
        finally:
            connection.close()


class Agent(Manager):
    """honcho's manager with a graceful shutdown. It also watches the embedded Redis."""

    def __init__(self, redis: EmbeddedRedis | None, readiness: Readiness, greeting: str) -> None:
        super().__init__(Printer(terminal, time_format=""))  # the lines have their own timestamps
        self._process_ctor = Watched
        self.fault = ""
        self.was_ready = False
        self._redis = redis
        self._readiness = readiness
        self._greeting = greeting
        self._complain_at = time.monotonic() + SLOW_START_SECONDS
        self._asked = 0
        self._step = 0
        self._next_step_at = 0.0
        self._lost: list[int] = []

    def loop(self) -> None:
        """Returns when all processes have ended: after a signal, or after one of them ended by itself (`fault`)."""
        catch_signals(self._ask)
        self._start()
        self._readiness.start()
        while not self._all_stopped():
            self._next_event()
            self._look_at_redis()
            self._greet()
            self._end_if_asked()
        for group in self._lost:
            signal_group(group, signal.SIGKILL)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked += 1

    def _next_event(self) -> None:
        gone = [name for name, process in self._processes.items() if not process["process"].is_alive()]
        try:
            event = self.events.get(timeout=0.1)
        except queue.Empty:
            for name in gone:  # the supervising process was killed, and its program still runs
                self._note_end(name, self._processes[name]["process"].exitcode, lost=True)
            return
        if event.type == "line":
            self._printer.write(event)
        elif event.type == "start":
            self._processes[event.name]["pid"] = event.data["pid"]
        elif event.type == "stop":
            self._note_end(event.name, event.data["returncode"])

    def _note_end(self, name: str, exit_code: int, *, lost: bool = False) -> None:
        process = self._processes[name]
        if process.get("returncode") is not None:
            return
        process["returncode"] = exit_code
        if lost and "pid" in process:
            self._lost.append(process["pid"])
            signal_group(process["pid"], signal.SIGTERM)
        self._note_fault(name, exit_code)

    def _look_at_redis(self) -> None:
        exit_code = self._redis.exit_code() if self._redis else None
        if exit_code is not None:
            self._note_fault("Redis", exit_code)

    def _note_fault(self, name: str, exit_code: int) -> None:
        if not self._step and not self._asked:
            self._asked = 1
            self.fault = f"{name} ended unexpectedly with exit code {exit_code}{signal_name(exit_code)}"
            say(f"{self.fault}.")

    def _greet(self) -> None:
        if self._step or self.was_ready:
            return
        if self._readiness.reached.is_set():
            self.was_ready = True
            terminal.write(self._greeting)
        elif time.monotonic() > self._complain_at:
            say(f"The agent is not ready after {SLOW_START_SECONDS} s: {self._readiness.complaint}. Waiting for it.")
            self._complain_at = float("inf")

    def _end_if_asked(self) -> None:
        """Each Ctrl-C starts the next step: finish predictions, requeue them, kill the processes. So does a timeout."""
        if not self._asked or not all("pid" in p or "returncode" in p for p in self._processes.values()):
            return
        if self._step and time.monotonic() >= self._next_step_at:
            self._asked = self._step + 1
        while self._step < min(self._asked, 3):
            self._next_step_at = time.monotonic() + (PATIENCE_SECONDS if self.was_ready else BOOT_PATIENCE_SECONDS)
            self._step += 1
            self._take_step()

    def _take_step(self) -> None:
        running = {name: process for name, process in self._processes.items() if process.get("returncode") is None}
        sentence, number = {
            1: (f"Stopping. Predictions may take {PATIENCE_SECONDS} s; Ctrl-C again is faster.", signal.SIGTERM),
            2: (f"Telling {', '.join(running)} to requeue predictions.", signal.SIGINT),
            3: (f"Killing {', '.join(running)}.", signal.SIGKILL),
        }[self._step]
        say(sentence)
        for process in running.values():
            if number == signal.SIGINT:  # gunicorn passes it on to its workers; two signals would make them log errors
                with suppress(ProcessLookupError):
                    os.kill(process["pid"], number)
            else:
                signal_group(process["pid"], number)
            if number == signal.SIGKILL:
                process["process"].kill()


def as_one_process(command: str) -> str:
    """Removes the shell, which would hide signals and exit codes, unless the line has several commands."""
    return command if set(";&|") & set(command) else f"exec env {command}"

"""Called by scripts/run. Starts Redis, the release commands and all processes of the Procfile; stops them together."""

# ruff: noqa: E402

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C during the imports prints no traceback

import multiprocessing
import os
import sys
from pathlib import Path
from types import FrameType

from honcho.environ import parse_procfile

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.starting.addresses import check_ports, web_address
from scripts.starting.embedded_redis import EmbeddedRedisError
from scripts.starting.lock import only_one
from scripts.starting.processes import Agent, Readiness, as_one_process
from scripts.starting.release import create_operator, forget_counters, prepare_release, redis_if_needed
from scripts.starting.settings import read_settings
from scripts.starting.signals import catch_signals, ignore_signals
from scripts.starting.terminal import ROOT, Refused, say
from scripts.starting.welcome import welcome


def run() -> int:
    read_settings()
    check_ports()
    commands = dict(parse_procfile((ROOT / "Procfile").read_text()).processes)
    with redis_if_needed() as redis:
        forget_counters()
        prepare_release(commands.pop("release"))
        operator, password = create_operator()
        address = web_address()
        agent = Agent(redis, Readiness(address), welcome(address, operator, password))
        for name, command in commands.items():
            agent.add_process(name, as_one_process(command))
        say(f"Starting {', '.join(commands)} ...")
        agent.loop()
        ignore_signals()
    if password and not agent.was_ready:
        say(f"Created the admin account: {operator}, password {password} : it is shown only now.")
    say(f"Stopped all processes because {agent.fault}." if agent.fault else "All processes have ended.")
    return 1 if agent.fault else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    ignore_signals()
    raise KeyboardInterrupt


def main() -> int:
    os.chdir(ROOT)
    multiprocessing.set_start_method("fork")  # so that the processes of a killed agent keep its lock
    catch_signals(_interrupt)
    try:
        with only_one():
            return run()
    except (Refused, EmbeddedRedisError) as error:
        say(str(error))
        return 1
    except OSError as error:
        say(f"Could not start the agent: {error}.")
        return 1
    except KeyboardInterrupt:
        say("Stopped before the agent was ready.")
        return 0


if __name__ == "__main__":
    sys.exit(main())

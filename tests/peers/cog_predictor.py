"""Two models for Cog, each served by its own runtime (coglet): Answers, and Streams, which yields its output.

They answer as `mood` says. They first write each step to the file EVENTS: one JSON object a line. A prediction of
the mood `gate` goes on once the file GATE is there.
"""

import asyncio
import json
import os
import pathlib
import time
from typing import Any

import cog
from cog import BaseRunner, ConcatenateIterator, Input

GATE = pathlib.Path(os.environ["GATE"])


def note(what: str, name: str) -> None:
    with open(os.environ["EVENTS"], "a") as events:
        events.write(json.dumps({"what": what, "name": name, "at": time.time()}) + "\n")


class Answers(BaseRunner):
    async def run(
        self,
        mood: str = Input(default="say"),
        name: str = Input(default=""),
        say: Any = Input(default=None),  # noqa: B008
        seconds: float = Input(default=0.0),
    ) -> Any:
        note("started", name)
        try:
            return await self.answer(mood, say, seconds)
        except asyncio.CancelledError:
            note("stopped", name)
            raise

    async def answer(self, mood: str, say: Any, seconds: float) -> Any:
        if mood == "raise":
            raise ValueError(say)
        if mood == "sleep":
            await asyncio.sleep(seconds)
            return {"slept": seconds}
        if mood == "gate":
            while not GATE.exists():
                await asyncio.sleep(0.05)
            return {"went": "through"}
        print("25% said")
        return say


class Streams(BaseRunner):
    @cog.streaming
    def run(
        self,
        pieces: list[str] = Input(default=None),  # noqa: B008
        name: str = Input(default=""),
        pause: float = Input(default=0.0),
        raise_at: int = Input(default=-1),
        hang: bool = Input(default=False),
    ) -> ConcatenateIterator[str]:
        """Not asynchronous: of an asynchronous one coglet 0.23.1 sends all pieces at its end."""
        note("started", name)
        try:
            for number, piece in enumerate(pieces):
                if number == raise_at:
                    raise ValueError("out of memory")
                print(f"piece {number}")
                yield piece
                time.sleep(pause)
            while hang and not GATE.exists():
                time.sleep(0.05)
        except cog.CancelationException:
            note("stopped", name)
            raise

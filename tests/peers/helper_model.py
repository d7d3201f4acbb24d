"""Real kservehelper models, run with the Python of their own virtual environment (2.x on KServe 0.13, 1.x on 0.10).

    python helper_model.py painter --http_port=P --enable_grpc=false

painter  draws `count` pictures and returns their paths: kservehelper uploads the files
writer   says `text` `repeat` times: in one answer, or in pieces with `pause` seconds between them (2.x: if `stream`
         is true; 1.x: at `:generate`)

kservehelper keeps a model's signature on its own class, so each model is a process of its own.
"""

import os
import sys
import time
import uuid
from importlib.metadata import version
from typing import List  # noqa: UP035

import uvicorn
from kservehelper import KServeModel
from kservehelper.types import Input, Path
from pictures import picture


class Painter:
    def load(self) -> None:
        pass

    def predict(
        self,
        count: int = Input(description="How many", default=2, ge=1),
    ) -> List[Path]:  # noqa: UP006
        paths = []
        for number in range(count):
            path = os.path.abspath(f"{uuid.uuid4()}-picture {number}.PNG")
            with open(path, "wb") as file:
                file.write(picture(number))
            paths.append(Path(path))
        return paths


class Writer:
    def load(self) -> None:
        pass

    def predict(
        self,
        text: str = Input(description="What to say", default="tok"),
        repeat: int = Input(description="How often", default=3, ge=1),
        pause: float = Input(description="Seconds between the pieces", default=0.0),
        stream: bool = Input(description="Whether in pieces", default=False),
    ):
        if stream:
            return KServeModel.wrap_generator(lambda: pieces(text, repeat, pause))
        return {"output": [text] * repeat, "letters": len(text) * repeat}


class OldWriter(Writer):
    def generate(
        self,
        text: str = Input(description="What to say", default="tok"),
        repeat: int = Input(description="How often", default=3, ge=1),
        pause: float = Input(description="Seconds between the pieces", default=0.0),
        stream: bool = Input(description="Whether in pieces", default=False),
    ):
        return KServeModel.wrap_generator(lambda: pieces(text, repeat, pause))


def pieces(text: str, repeat: int, pause: float):
    for number in range(repeat):
        yield f"{text}{number} "
        time.sleep(pause)


class LoopbackConfig(uvicorn.Config):
    """kserve's own binds 0.0.0.0."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **{**kwargs, "host": "127.0.0.1"})


if __name__ == "__main__":
    writer = OldWriter if version("kserve").startswith("0.10.") else Writer
    name = sys.argv.pop(1)
    uvicorn.Config = LoopbackConfig
    KServeModel.serve(name, {"painter": Painter, "writer": writer}[name])

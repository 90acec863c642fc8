"""Logs that carry the object: as text, or as one JSON object a line."""

import contextvars
import json
import logging
import sys
from datetime import UTC, datetime

from finetune_operator.cluster.queue import Key
from finetune_operator.cluster.settings import Settings

CURRENT: contextvars.ContextVar[Key | None] = contextvars.ContextVar("current", default=None)
"""The job that is looked at."""


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        key = CURRENT.get()
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if key is not None:
            said |= {"namespace": key[0], "name": key[1]}
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False)


class Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        key = CURRENT.get()
        who = f"[{key[0]}/{key[1]}] " if key is not None else ""
        when = datetime.fromtimestamp(record.created, UTC)
        line = f"{when:%Y-%m-%d %H:%M:%S} {record.levelname} {who}{record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def set_up(settings: Settings) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if settings.log_format == "json" else Text())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for noisy in ("kopf", "aiohttp", "kubernetes.aio.leaderelection"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

"""Structured logs on stderr: one line an event, as logfmt or JSON."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    head = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "msg": record.getMessage(),
    }
    return head | {
        key: value for key, value in vars(record).items() if key not in _STANDARD and value not in ("", {}, None)
    }


class Logfmt(logging.Formatter):
    """`key=value` pairs; values with blanks or quotes are quoted as JSON strings."""

    def format(self, record: logging.LogRecord) -> str:
        text = " ".join(f"{key}={_value(value)}" for key, value in _fields(record).items())
        return text + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


class Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


def _value(value: Any) -> str:
    text = (
        json.dumps(value, separators=(",", ":"), default=str) if isinstance(value, dict | list | tuple) else str(value)
    )
    return json.dumps(text) if not text or any(char in text for char in ' "=\n') else text


def setup(level: str, form: str) -> None:
    """All loggers to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json() if form == "json" else Logfmt())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)

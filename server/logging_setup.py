"""Structured logs on stderr: one line an event, as logfmt or JSON."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_to_json = json.JSONEncoder(separators=(",", ":"), default=str).encode
_must_be_quoted = re.compile(r'[ "=\n]').search


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "msg": record.getMessage(),
    }
    for key, value in vars(record).items():
        if key not in _STANDARD and value not in ("", {}, None):
            fields[key] = value
    return fields


class Logfmt(logging.Formatter):
    """`key=value` pairs; values with blanks or quotes are quoted as JSON strings."""

    def format(self, record: logging.LogRecord) -> str:
        text = " ".join([f"{key}={_value(value)}" for key, value in _fields(record).items()])
        return text + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


class Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


def _value(value: Any) -> str:
    text = _to_json(value) if isinstance(value, dict | list | tuple) else str(value)
    return _to_json(text) if not text or _must_be_quoted(text) else text


def setup(level: str, form: str) -> None:
    """All loggers to stderr."""
    # What no line tells need not be found out for each.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json() if form == "json" else Logfmt())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)

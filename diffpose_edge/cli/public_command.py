"""What was asked of the command line, without what it was asked with: for crash reports."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def public_command(root: Any, arguments: Sequence[str]) -> list[str]:
    """Return arguments with the names of commands and options as ``root`` (a Click group) knows them, and of all else the kind alone:
    "<number>", "<path>" or "<value>"; "<option>" where an option is none.
    """
    told: list[str] = []
    command = root
    for argument in arguments:
        name, joined, value = argument.partition("=")
        if argument in getattr(command, "commands", {}):
            command = command.commands[argument]
            told.append(argument)
        elif argument.startswith("-") and len(argument) > 1 and not _is_number(argument):
            options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
            told.append((name if name in options else "<option>") + (f"={_kind(value)}" if joined else ""))
        else:
            told.append(_kind(argument))
    return told


def _kind(value: str) -> str:
    if _is_number(value):
        return "<number>"
    return "<path>" if os.sep in value or Path(value).suffix or Path(value).exists() else "<value>"


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True

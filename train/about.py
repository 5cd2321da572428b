"""By what and where a run was made, in the `about.json` of its folder: for those who report it, not for the run."""

from __future__ import annotations

import json
import os
import platform
import re
from datetime import date
from pathlib import Path
from typing import Any

import torch

from .. import __version__


def record(folder: Path, known: dict[str, Any], device: torch.device, ranks: int) -> None:
    """Write `about.json`, or where it is there, add a session: a run may go on elsewhere than it began.

    Args:
        folder: of the run.
        known: what is the same in all sessions, as `command` and `parameters`; taken from the first.
        device: where it runs.
        ranks: how many processes share its rows.
    """
    file, partial = folder / "about.json", folder / ".about.json"
    try:
        found = json.loads(file.read_text())
        sessions = list(found["sessions"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        found, sessions = known, []
    session = {
        "date": date.today().isoformat(),
        "version": __version__,
        "torch": str(torch.__version__),
        "device": device_name(device),
        "ranks": ranks,
    }
    partial.write_text(json.dumps(found | {"sessions": [*sessions, session]}, indent=2) + "\n")
    os.replace(partial, file)


def device_name(device: torch.device) -> str:
    """Return what a device calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    file = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*:\s*(.+)$", file.read_text(), re.MULTILINE) if file.is_file() else None
    return named[1] if named else platform.processor() or platform.machine()

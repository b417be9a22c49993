"""A part of a benchmark's table, kept with what it was measured on."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any

from rotate_core.storage import hardware, versions, write_whole
from rotate_core.verdicts.record import PACKAGES


def keep(file: Path, part: str, figures: dict[str, Any]) -> None:
    """Put figures into a table of parts; what others measured before stays. And print them."""
    results = json.loads(file.read_text()) if file.exists() else {}
    results[part] = {
        "figures": figures,
        "hardware": hardware(),
        "load_average": os.getloadavg()[0],
        "versions": versions(*PACKAGES),
        "measured": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes"),
    }
    write_whole(file, (json.dumps(results, indent=1) + "\n").encode())
    print(f"{part}: {json.dumps(figures, indent=1)}", flush=True)

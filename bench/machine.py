"""Name the machine that a figure was measured on."""

import platform
from pathlib import Path

from promptimal.engine import threads


def machine() -> str:
    """Processor, threads used, system and Python, in a line."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = names[0] if names else name
    return f"{name}, {threads()} threads, {platform.system()} {platform.machine()}, Python {platform.python_version()}"

"""Copy a text out of the terminal: by the platform's own tool, and by the terminal itself (OSC 52), which also works over ssh.

Whether a terminal obeys OSC 52 cannot be asked, so the sequence is sent in any case where it can do no harm, and the tool is run where there is one.
"""

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping

_LONGEST = 74_994
"""Bytes that go through OSC 52: more than that many terminals drop."""

_NO_OSC = ("dumb", "linux", "unknown")


def copy(text: str, send: Callable[[str], None], environment: Mapping[str, str] = os.environ) -> str:
    """Copy a text and say by which way, or "" where there was none. `send` writes to the terminal."""
    data = text.encode(errors="replace")
    ways = []
    tool = _tool(environment)
    if tool and _run(tool, data):
        ways.append(tool[0])
    if len(data) <= _LONGEST and environment.get("TERM", "dumb") not in _NO_OSC:
        send(f"\x1b]52;c;{base64.b64encode(data).decode()}\x07")
        ways.append("OSC 52")
    return " and ".join(ways)


def _tool(environment: Mapping[str, str]) -> list[str]:
    """The platform's command that copies its standard input, or [] where there is none."""
    if environment.get("TMUX") and shutil.which("tmux"):
        return ["tmux", "load-buffer", "-w", "-"]  # by default tmux does not let OSC 52 through
    if environment.get("SSH_CONNECTION"):
        return []  # a tool would copy on the machine far away
    candidates = [["pbcopy"]] if sys.platform == "darwin" else [["clip.exe"]] if sys.platform == "win32" else []
    candidates += [["wl-copy"]] if environment.get("WAYLAND_DISPLAY") else []
    candidates += [["xclip", "-selection", "clipboard"], ["xsel", "-b", "-i"]] if environment.get("DISPLAY") else []
    return next((c for c in candidates if shutil.which(c[0])), [])


def _run(tool: list[str], data: bytes) -> bool:
    try:
        done = subprocess.run(tool, input=data, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=2)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0

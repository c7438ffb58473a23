"""`python -m bedplate.agent [ENROL_FILE]`: the agent without the command line's other parts, for small servers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bedplate.agent.main import STATE_FOLDER, run

sys.exit(
    run(
        sys.argv[1] if len(sys.argv) > 1 else "",
        state=Path(os.environ.get("BEDPLATE_AGENT_STATE", STATE_FOLDER)),
        libvirt_uri=os.environ.get("BEDPLATE_LIBVIRT_URI", "qemu:///system"),
        watchdog=os.environ.get("BEDPLATE_WATCHDOG", ""),
        dial_own_addresses=os.environ.get("BEDPLATE_DIAL_OWN_ADDRESSES") == "1",
    )
)

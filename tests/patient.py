"""The command line, for tests that start a Ray of their own on a machine that may be busy.

Ray gives a raylet 30 s to register (ray._private.node.Node), which a busy machine exceeds: here it has five minutes. Run as
`python -c PATIENT ARGUMENTS`.
"""

from __future__ import annotations

PATIENT = """
import sys, time
import ray._private.services as services
ask = services.get_node
def patient(*given):
    for _ in range(600):
        try:
            return ask(*given)
        except RuntimeError:
            time.sleep(0.5)
    return ask(*given)
services.get_node = patient
from weakspot.cli.main import main
sys.exit(main(sys.argv[1:]))
"""

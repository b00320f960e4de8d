"""Command lines for tests that start a Ray of their own on a machine that may be busy.

Ray gives a raylet 30 s to register (ray._private.node.Node), which a busy machine exceeds: here it has five minutes. Run as
`python -c PATIENT ARGUMENTS`: weakspot's command line, or Ray's.
"""

from __future__ import annotations

WAITING = """
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
"""
PATIENT = WAITING + "from weakspot.cli.main import main\nsys.exit(main(sys.argv[1:]))\n"
PATIENT_RAY = WAITING + "from ray.scripts.scripts import main\nsys.exit(main())\n"

"""OpenVINO, imported without its telemetry. Every other file takes it from here.

Importing it writes a client's id below the user's home and tells a server of it, unless `openvino_telemetry` is absent:
then it takes a stub of its own. So that package is absent for as long as the import lasts.
"""

from __future__ import annotations

import sys

_telemetry = sys.modules.get("openvino_telemetry")
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # what makes an import fail
try:
    import openvino
    from openvino import opset13
finally:
    del sys.modules["openvino_telemetry"]
    if _telemetry is not None:
        sys.modules["openvino_telemetry"] = _telemetry

__all__ = ["openvino", "opset13"]

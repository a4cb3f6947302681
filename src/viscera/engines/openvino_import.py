"""The module `openvino`, imported so that it sends nothing anywhere."""

from __future__ import annotations

import sys
from typing import Any

from viscera.engines.forks import loading

# OpenVINO's Python package loads this converter, which reports each import to a web analytics service and needs as
# much time as the rest of the import. Graphs are read without it.
_REPORTING_MODULE = "openvino.tools.ovc"


def import_openvino() -> Any:
    """The module `openvino`, imported so that it reports nothing to anyone.

    Its Python package sends an event to a web analytics service on every import unless the user has opted out. The
    part that does so, its model converter, is kept from loading; OpenVINO itself treats that part as optional, and only
    `openvino.convert_model` is missing then. A program that has imported openvino before has had its own event, which
    cannot be undone here.
    """
    with loading:
        kept_out = "openvino" not in sys.modules and _REPORTING_MODULE not in sys.modules
        if kept_out:
            sys.modules[_REPORTING_MODULE] = None  # type: ignore[assignment]  # makes its import fail
        try:
            import openvino
        finally:
            if kept_out:
                sys.modules.pop(_REPORTING_MODULE, None)
    return openvino

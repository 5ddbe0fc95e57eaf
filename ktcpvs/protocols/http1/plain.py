"""Plain messages, read by compiled code where it is installed, else by the same functions in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ktcpvs.protocols.http1.plain_python import MAX_REPLACED as MAX_REPLACED
from ktcpvs.protocols.http1.plain_python import PlainRequest as PlainRequest
from ktcpvs.protocols.http1.plain_python import RequestScanner as RequestScanner
from ktcpvs.protocols.http1.plain_python import scan_response as scan_response

IS_COMPILED = False

if not TYPE_CHECKING:
    try:
        from ktcpvs.protocols._compiled import PlainRequest as PlainRequest
        from ktcpvs.protocols._compiled import RequestScanner as RequestScanner
        from ktcpvs.protocols._compiled import scan_response as scan_response
    except ImportError:  # there was no C compiler when ktcpvs was installed
        pass
    else:
        IS_COMPILED = True

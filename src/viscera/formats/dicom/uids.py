"""Identifiers of objects that are made here."""

from __future__ import annotations

import hashlib
import uuid


def named_uid(*parts: str) -> str:
    """The UID that stands for `parts`: always the same for the same, another for others.

    It is a name-based UUID as a UID (DICOM PS3.5, annex B.2), so it says nothing of the parts and collides with
    nobody's.
    """
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"

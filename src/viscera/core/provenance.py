"""Provenance of a set of labels, as recorded in the files that hold them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from viscera.core.organs import ORGANS, Organ
from viscera.core.version import version

_NAMESPACE = uuid.UUID("6b2f9df2-3b0c-4d0c-9a1e-5f0c7c3c2a51")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The model, program and time behind the labels of a result.

    Attributes:
        bundle, bundle_version: The model bundle.
        organs: What the labels are.
        identity: What the result's identifiers follow from: equal text gives equal identifiers, None new ones.
        made: Date and time in the result.
    """

    bundle: str
    bundle_version: str
    organs: Sequence[Organ] = ORGANS
    identity: str | None = None
    made: datetime = field(default_factory=datetime.now)

    def uid(self, what: str) -> str:
        """A UID for the part `what` of the result (DICOM PS3.5, B.2: derived from a UUID)."""
        one = uuid.uuid4() if self.identity is None else uuid.uuid5(_NAMESPACE, f"{self.identity}/{what}")
        return f"2.25.{one.int}"

    @property
    def algorithm(self) -> str:
        """Program and bundle in at most 64 characters."""
        return f"viscera {version()}, bundle {self.bundle} {self.bundle_version}"[:64]

"""A listener and a client for picture archives."""

import viscera.formats as viscera_formats  # noqa: F401  # guards the imports of gdcm and pydicom

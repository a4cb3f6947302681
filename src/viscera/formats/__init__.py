"""File formats, each read or written by one module that loads its package only when called."""

from viscera.formats.dicom.import_guard import guard_imports

guard_imports()  # before any module below loads pydicom or nibabel

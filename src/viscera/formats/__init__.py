"""Other people's formats, each read or written by one module that loads its package only when called."""

from viscera.formats.dicom.gdcm_import import guard_gdcm

guard_gdcm()  # before any module below loads pydicom or nibabel, and with them gdcm

"""CTs drawn from label maps: anatomies, their deformation, CT numbers and acquisition, as training samples."""

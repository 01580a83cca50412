"""Files in, volumes out: discovery, NIfTI and DICOM reading, geometry in RAS+ millimetres."""

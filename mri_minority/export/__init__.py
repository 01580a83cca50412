"""Synthetic slices as data sets other tools read, one file per format."""

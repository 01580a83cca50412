"""Rare anatomy, on purpose: minority-guided synthesis of labelled brain MRI slices."""

__version__ = "0.1.0"

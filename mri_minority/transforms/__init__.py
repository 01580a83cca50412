"""MONAI compositions built from explicit parameters."""

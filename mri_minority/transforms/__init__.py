"""From volumes in source units to boxes about the head in model units: plain functions of arrays."""

"""Long-running search for files that the readers cannot stand: `make fuzz`."""

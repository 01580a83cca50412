"""From volumes to slices: selection, the slice store, strata, the split by subject."""

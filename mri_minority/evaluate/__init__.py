"""Measurements on synthetic slices: attributes, density, fidelity, copies, use downstream."""

"""The mathematics of rarity: scores, distances, levels, classifier, samplers. Pure torch, no files."""

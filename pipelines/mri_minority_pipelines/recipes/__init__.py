"""Recipes: package data, one YAML file per kind of image."""

"""Edits of label maps: one small file per edit, each a frozen object with its parameters. Pure arrays, no files."""

"""Orchestration: config, read artefacts, call the library, write artefacts."""

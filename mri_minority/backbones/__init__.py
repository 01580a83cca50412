"""The networks: the only room that knows a network library or a foreign checkpoint."""

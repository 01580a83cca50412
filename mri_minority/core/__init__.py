"""What every room may use: shape aliases, generators, errors, the record of one slice."""

"""The one tree of errors. A message says what was expected, what was found, where, and what to do."""


class MriMinorityError(Exception):
    """Base of every error this project raises on purpose; carries the exit code of the command line."""

    exit_code: int = 1


class UsageError(MriMinorityError):
    """The request itself cannot be carried out (an unknown option value, a level out of range)."""

    exit_code = 2


class DataError(MriMinorityError):
    """Files or arrays are not what they should be (missing, corrupt, empty, of another version)."""

    exit_code = 3


class AuditError(MriMinorityError):
    """A check of the synthetic slices failed (a copy of a training slice, a changed file)."""

    exit_code = 4

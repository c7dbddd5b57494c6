"""Errors that a person can act on: one line that names the parameter or file and what to do."""


class SSDHError(Exception):
    """Base of every expected failure. Stages and commands print its message as one line, without a traceback."""


class ParameterError(SSDHError):
    """A parameter in `params.yaml` (or on the command line) is missing, unknown, of the wrong type or out of range."""


class DataError(SSDHError):
    """A file, folder or download is missing, broken or does not fit; the message names it and what to do."""

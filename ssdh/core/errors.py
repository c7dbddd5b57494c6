"""Errors that a person can act on: one line that names the parameter or file and what to do."""


class SSDHError(Exception):
    """Base of every expected failure. Stages and commands print its message as one line, without a traceback."""


class ParameterError(SSDHError):
    """A parameter in `params.yaml` (or on the command line) is missing, unknown, of the wrong type or out of range."""


class DataError(SSDHError):
    """A file, folder or download is missing, broken or does not fit; the message names it and what to do."""


def one_line(text: str) -> str:
    r"""A file's name as a message shows it: as it stands, or quoted with escapes where it holds what no line can show.

    >>> print(one_line("Zoë 1.jpg"), one_line("a\rb.jpg"), one_line("\udce9.jpg"))
    Zoë 1.jpg 'a\rb.jpg' '\udce9.jpg'
    """
    return text if text.isprintable() else repr(text)

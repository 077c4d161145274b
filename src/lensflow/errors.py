"""The one exception that a user is meant to read."""


class LensflowError(Exception):
    """A mistake in the input that the user can mend.

    The message is one line: it names the key, file or language and says what to do. The command line prints it
    without a traceback and exits with 2.
    """

"""The one exception that a user is meant to read."""

LONGEST = 2000  # characters of a message


class LensflowError(Exception):
    """A mistake in the input that the user can mend.

    The message is one line: it names the key, file or language and says what to do. The command line prints it
    without a traceback and exits with 2.
    """

    def __str__(self) -> str:
        """Return the message, fit for a terminal: what it quotes may hold line breaks, escape sequences, megabytes."""
        text = super().__str__()
        shown = text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
        return "".join(char if char.isprintable() else repr(char)[1:-1] for char in shown)

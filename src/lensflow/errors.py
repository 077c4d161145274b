"""The one exception that a user is meant to read, and what others may say in it."""

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


def of_the_hub(error: Exception) -> str:
    """What an error of the hub says, in one line and without the user's token, which a server could repeat."""
    from huggingface_hub import get_token

    text = " ".join(str(error).split())
    token = get_token()
    return text.replace(token, "***") if token else text

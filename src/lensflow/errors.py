"""LensflowError, the one exception that is written for users, and functions that quote other texts in it."""

LONGEST = 2000  # characters of a message


class LensflowError(Exception):
    """A mistake in the input that the user can correct.

    The message is one line: it names the key, file or language and says what to do. The command line prints it
    without a traceback and exits with 2.
    """

    def __str__(self) -> str:
        """Return a message that is safe to print in a terminal.

        Quoted text may contain line breaks, escape sequences or megabytes.
        """
        text = super().__str__()
        shown = text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
        return "".join(char if char.isprintable() else repr(char)[1:-1] for char in shown)


def of_the_hub(error: Exception) -> str:
    """Return the text of a hub error in one line, without the user's token, which a server could repeat."""
    from huggingface_hub import get_token

    text = " ".join(str(error).split())
    token = get_token()
    return text.replace(token, "***") if token else text

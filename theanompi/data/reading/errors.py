"""What the loader raises: apart from it, for those who ask whether an error is one and need no loader."""


class LoaderError(RuntimeError):
    """A loader process has died, or an item cannot be read; the message is one line."""

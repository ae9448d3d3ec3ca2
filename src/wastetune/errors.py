"""What a user did wrong and what to do about it."""


class UserError(Exception):
    """One clear sentence: what is wrong, where, and what to do. The command line prints it and exits with status 2."""

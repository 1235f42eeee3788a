"""The one exception that means: the user can mend this."""

class UserError(Exception):
    """A mistake outside the program. Its text is one line: what is wrong, where, and what to do."""

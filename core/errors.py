"""What ends a command early, with the exit status that says so. `core.cli` prints them as lines, not tracebacks."""


class CommandError(Exception):
    """`problems`: one line each, as shown to the person who gave the command."""

    status: int = 1

    def __init__(self, *problems: str):
        super().__init__("\n".join(problems))
        self.problems = problems


class UserError(CommandError):
    """What was asked for cannot be done; raised before any work starts."""

    status = 2


class RunFailed(CommandError):
    """A run that had started cannot go on: it diverged, or its disk is full."""


class Interrupted(CommandError):
    """A signal asked the run to stop; its state is saved."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status

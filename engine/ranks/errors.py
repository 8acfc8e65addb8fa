"""How a group of ranks fails."""


class GroupFailedError(Exception):
    """A rank of this worker's group has ended or failed, so no rank can go on."""


class NotAdmittedError(Exception):
    """The ranks that this worker wanted to join go on without it."""

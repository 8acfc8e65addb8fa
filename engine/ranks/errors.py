"""How a group of ranks fails."""


class GroupFailedError(Exception):
    """A rank of this worker's group has ended or failed, so no rank can go on."""

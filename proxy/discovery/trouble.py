"""What is wrong with a source, logged when it begins, when it changes and when it ends."""

import logging

logger = logging.getLogger(__name__)


class Trouble:
    """The last problem of one source."""

    def __init__(self, source: str) -> None:
        self._source = source
        self.problem: str | None = None

    def report(self, problem: str | None) -> None:
        """Take note of the outcome of a look; None: it went well."""
        if problem == self.problem:
            return
        if problem is None:
            logger.info("%s can be read again", self._source)
        else:
            logger.warning("%s; the workers it listed before stay", problem)
        self.problem = problem

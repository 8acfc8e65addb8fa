"""A launch that raises leaves nothing running on the device."""

import pytest

from baton.engine.runner import Flight, LaunchedStep, SettledRunner
from baton.engine.step import Step


class Device:
    """Work is done only when someone waits for it, as on a GPU; a launch queues some, then may raise."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error
        self.queued = 0

    def launch(self, step: Step) -> Flight:
        self.queued += 1
        if self._error is not None:
            raise self._error
        return LaunchedStep([], is_on_gpu=False)

    def wait(self) -> None:
        self.queued = 0


def test_what_a_launch_queued_before_it_raised_is_over_when_the_error_is_heard_of() -> None:
    device = Device(RuntimeError("out of memory"))
    runner = SettledRunner(device, device.wait)

    with pytest.raises(RuntimeError, match="out of memory"):
        runner.launch(Step())
    assert device.queued == 0


def test_a_launch_that_succeeds_does_not_wait() -> None:
    device = Device(None)
    SettledRunner(device, device.wait).launch(Step()).land()

    assert device.queued == 1

"""In two halves, each transfer is on its way before anyone waits for the other half's."""

from pathlib import Path

from torch import Tensor

from baton.engine.models.loading import load
from baton.engine.ranks.phased_model import PhasedModel
from baton.kernels.moe.backend import Begun, LocalMoe
from baton.kernels.moe.experts import ExpertWeights
from baton.kernels.moe.pair import Pending
from baton.kernels.moe.phases import PhasedMoe
from support.checkpoints import make_deepseek_v3
from support.driver import Driver

ONE_LAYER = ["dispatch A", "dispatch B", "experts A", "experts B"]


class RecordingMoe:
    """Computes locally and writes down when each half's transfers begin and are waited for."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self._begun = 0

    def begin(self, x: Tensor, ids: Tensor, weights: Tensor, experts: ExpertWeights) -> Begun:
        half = "AB"[self._begun % 2]
        self._begun += 1
        self.log.append(f"dispatch {half}")
        return RecordedBegun(half, LocalMoe().begin(x, ids, weights, experts), self.log)


class RecordedBegun:
    def __init__(self, half: str, begun: Begun, log: list[str]) -> None:
        self._half, self._begun, self._log = half, begun, log

    def compute(self) -> Pending[Tensor]:
        """The dispatch is waited for here, and the combine begins."""
        self._log.append(f"experts {self._half}")
        pending = self._begun.compute()

        def wait() -> Tensor:
            self._log.append(f"combined {self._half}")
            return pending()

        return wait


def test_a_half_computes_while_the_other_halfs_transfer_is_on_its_way(tmp_path: Path) -> None:
    recording = RecordingMoe()
    moe = PhasedMoe(recording, recording)
    folder = make_deepseek_v3(tmp_path / "model", num_hidden_layers=3)  # the first layer is dense
    model = PhasedModel(load(folder, device="cpu", dtype=None, on_progress=None, backend=moe), moe, None)
    driver = Driver(model)
    sequences = [driver.sequence([5, 6, 7 + row]) for row in range(5)]
    driver.prefill([(sequence, 3) for sequence in sequences])
    model.decode_rows, model.decode_in_halves = 6, True
    recording.log.clear()

    driver.decode(sequences)

    assert recording.log == [
        *ONE_LAYER,
        "combined A",
        "dispatch A",
        "combined B",
        "dispatch B",
        *ONE_LAYER[2:],
        "combined A",
        "combined B",
    ]

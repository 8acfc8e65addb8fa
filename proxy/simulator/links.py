"""KV on its way: each worker's network card carries one transfer after the other, at either end."""

from .engine_model import LinkModel


class Links:
    """When transfers end."""

    def __init__(self, model: LinkModel) -> None:
        self._model = model
        self._free_at: dict[tuple[str, str], float] = {}

    def send(self, prefill: str, decode: str, kv_bytes: float, now: float) -> float:
        """Send `kv_bytes` as soon as both cards are free; return when they are there."""
        out, into = ("out", prefill), ("into", decode)
        starts = max(now, self._free_at.get(out, 0.0), self._free_at.get(into, 0.0))
        ends = starts + kv_bytes / self._model.bytes_per_s
        self._free_at[out] = self._free_at[into] = ends
        return ends + self._model.base_s

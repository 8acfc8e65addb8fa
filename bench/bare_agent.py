"""A NIXL agent with nothing around it: one prepared pool on each side, READ after READ, busily polled."""

import logging
from typing import Any

import numpy as np
from nixl import _api as api
from numpy.typing import NDArray

from ..kvtransfer.service import PoolRegion


class BareAgent:
    """Owns or reads one pool."""

    def __init__(self, name: str, region: PoolRegion) -> None:
        logging.getLogger("nixl").setLevel(logging.WARNING)
        config = api.nixl_agent_config(enable_prog_thread=False, backends=["UCX"])
        self._agent = api.nixl_agent(name, config)
        size = region.block_bytes * region.num_blocks
        self._registered = self._agent.register_memory([(region.address, size, 0, "")], region.memory)
        self._local = self._prepare("NIXL_INIT_AGENT", region)
        self._remote: Any = None

    @property
    def metadata(self) -> bytes:
        """What a reader needs."""
        metadata = self._agent.get_agent_metadata()
        assert isinstance(metadata, bytes)
        return metadata

    def add(self, metadata: bytes, region: PoolRegion) -> None:
        """Make another agent's pool the one that is read."""
        self._remote = self._prepare(self._agent.add_remote_agent(metadata), region)

    def poll(self) -> None:
        """Let a reader's first contact, and transports that need the passive side, make progress."""
        self._agent.get_new_notifs()

    def read(self, block_ids: NDArray[np.int32]) -> None:
        """Read blocks into the blocks of the same numbers."""
        handle = self._agent.make_prepped_xfer("READ", self._local, block_ids, self._remote, block_ids)
        state = self._agent.transfer(handle)
        while state == "PROC":
            state = self._agent.check_xfer_state(handle)
        assert state == "DONE", state
        self._agent.release_xfer_handle(handle)

    def _prepare(self, owner: Any, region: PoolRegion) -> Any:
        size = region.block_bytes
        strided = np.array([[region.address, size, 0, size, region.num_blocks]], dtype=np.uint64)
        return self._agent.prep_xfer_dlist(owner, strided, region.memory)

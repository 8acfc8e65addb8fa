"""A stand-in for `deep_ep` in one process: ranks are threads, memory is a dictionary, contracts are enforced.

What on a cluster would be a hang, a crash or a wrong sum raises `MisuseError` here, or shows as NaN: results
are NaN until their event was waited for or their hook was called, rows beyond the counts are NaN always, and
a low-latency result turns into NaN when a third call overwrites its buffer.
"""

from .elastic import ElasticBuffer
from .fabric import Fabric, Group, MisuseError, run_threads
from .legacy import Buffer

__all__ = ["Buffer", "ElasticBuffer", "Fabric", "Group", "MisuseError", "run_threads"]

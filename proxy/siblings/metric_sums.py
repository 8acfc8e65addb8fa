"""One text of metrics out of those of several processes. No I/O.

What each process counts of its own is summed. What every process knows of all of them (`SEEN_BY_ALL`) is as
the process that was asked sees it.
"""

from collections.abc import Sequence

SEEN_BY_ALL = (
    "baton_proxy_worker_state",
    "baton_proxy_worker_tokens",
    "baton_proxy_worker_requests",
    "baton_proxy_slot_tokens",
)


def summed(own: str, others: Sequence[str]) -> str:
    """Return `own` with the samples of `others` added to its own, in its order."""
    totals: dict[str, float] = {}
    by_name: dict[str, list[str]] = {}
    for text in (own, *others):
        for line in text.splitlines():
            if not line or line.startswith("#"):
                continue
            sample, _, value = line.rpartition(" ")
            if sample not in totals:
                by_name.setdefault(_name(sample), []).append(sample)
                totals[sample] = float(value)
            elif text is not own and not line.startswith(SEEN_BY_ALL):
                totals[sample] += float(value)
    return _written(own, by_name, totals)


def _written(own: str, by_name: dict[str, list[str]], totals: dict[str, float]) -> str:
    lines: list[str] = []
    for line in own.splitlines():
        if line.startswith("#"):
            lines.append(line)
            continue
        samples = by_name.pop(_name(line.rpartition(" ")[0]), [])
        lines += [f"{sample} {totals[sample]!r}" for sample in samples]
    for samples in by_name.values():  # of what this process has none
        lines += [f"{sample} {totals[sample]!r}" for sample in samples]
    return "\n".join(lines) + "\n"


def _name(sample: str) -> str:
    return sample.partition("{")[0]

"""Everything that was measured, as one text."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field

from baton.proxy.compiled import compiled_modules

from ..table import render
from .cores import Cores
from .faults import Case, Seen
from .prefix_hits import Hits, upper_bound
from .rounds import Sample
from .systems import Family, System
from .table import workload_table, workloads_in
from .workloads import Workload


@dataclass
class Report:
    """Collected while the bench runs."""

    reference: str
    cores: Cores
    peers: Sequence[str]
    systems: Sequence[System]
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])
    """Load average when the bench began: other work on the machine."""
    samples: list[Sample] = field(default_factory=list)
    hits: list[Hits] = field(default_factory=list)
    _faults: dict[str, dict[str, Seen]] = field(default_factory=dict)

    def add_fault(self, case: Case, system: System, seen: Seen) -> None:
        """Book one played case."""
        self._faults.setdefault(case.name, {})[system.name] = seen

    def lost_cases(self, family: Family) -> int:
        """Return in how many played cases routers of `family` lost requests."""
        names = {system.name for system in self.systems if system.family is family}
        return sum(
            seen.lost for played in self._faults.values() for name, seen in played.items() if name in names
        )

    def text(self) -> str:
        """Return the tables."""
        parts = [self._preamble()]
        parts += [
            f"{_title(workload)}\n\n```\n{workload_table(self.samples, workload, self.reference)}\n```"
            for workload in workloads_in(self.samples)
        ]
        if self.hits:
            parts.append(f"## Prefix cache hits by policy\n\n```\n{hits_table(self.hits)}\n```")
        if self._faults:
            parts.append(f"## Faults\n\n{self._fault_table()}\n\n{self._kept()}")
        return "\n\n".join(parts)

    def _preamble(self) -> str:
        policies = ", ".join(f"{each.name}: {each.policy}" for each in self.systems if each.policy)
        load = ", ".join(map(str, self.cores.load))
        compiled = "" if compiled_modules() else "not "
        return (
            f"{platform.machine()}, {os.cpu_count()} CPUs, load average before {self.load_before:.1f}; "
            f"router on core {self.cores.router}, workers and load on {load}. {', '.join(self.peers)}; "
            f"policies: {policies}; baton's hot modules are {compiled}compiled. "
            f"Ratios are to {self.reference} in the same round: median, least and "
            "most. `direct` shows times, the others what they add."
        )

    def _fault_table(self) -> str:
        systems = self._faulted()
        lines = ["| case | " + " | ".join(systems) + " |"]
        lines.append("|---" * (len(systems) + 1) + "|")
        for name, seen in self._faults.items():
            cells = [_cell(seen.get(system)) for system in systems]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def _kept(self) -> str:
        lines = []
        for system in self._faulted():
            lost = sum(seen[system].lost for seen in self._faults.values() if system in seen)
            lines.append(f"- {system}: " + (f"lost requests in {lost} cases" if lost else "no request lost"))
        return "\n".join(lines)

    def _faulted(self) -> list[str]:
        """Systems that cases were played on."""
        return list(dict.fromkeys(system for seen in self._faults.values() for system in seen))


def _title(workload: Workload) -> str:
    prompts = f"## {workload.name}: {workload.prompt_bytes} B prompts, {workload.connections} connections"
    if workload.once:
        return f"{prompts}, one open stream each"
    chunks = "one chunk" if workload.chunks == 1 else f"{workload.chunks} chunks"
    spacing = f" {workload.interval_us / 1000:g} ms apart" if workload.interval_us else " back to back"
    return f"{prompts}, {chunks}{spacing if workload.chunks > 1 else ''}{', required' * workload.required}"


def _cell(seen: Seen | None) -> str:
    if seen is None:
        return "-"
    text = seen.text.replace("|", "\\|")
    return f"**lost:** {text}" if seen.lost else text


def hits_table(hits: Sequence[Hits]) -> str:
    """Return a row per policy."""
    capacities = sorted({each.capacity for each in hits})
    columns = [f"{what} hit, {capacity} blocks" for capacity in capacities for what in ("prefill", "decode")]
    rows = []
    for name in dict.fromkeys(each.system.name for each in hits):
        mine = {each.capacity: each for each in hits if each.system.name == name}
        first = mine[capacities[0]]
        shares = [value for each in mine.values() for value in (each.prefill, each.decode)]
        rows.append(
            [
                name,
                *("did not run" if share is None else f"{share:.3f}" for share in shares),
                "/".join(map(str, first.split)),
                f"{first.renders_per_request:.1f}",
                str(sum(each.failed for each in mine.values())),
            ]
        )
    rows.append(["one cache without bounds", *[f"{upper_bound():.3f}"] * len(columns), "", "", ""])
    return render(["policy", *columns, "prefill split", "renders/request", "failed"], rows)

"""Every router that faults were played on has its column, two of one family too."""

from baton.bench.proxy.cores import Cores
from baton.bench.proxy.fault_cases import CASES
from baton.bench.proxy.faults import Seen
from baton.bench.proxy.report import Report
from baton.bench.proxy.systems import Family, compared_systems


def test_routers_of_one_family_are_told_apart() -> None:
    vllm, *batons = [
        next(system for system in compared_systems().values() if system.family is Family.VLLM),
        *(system for system in compared_systems().values() if system.family is Family.BATON),
    ]
    first, second = batons[:2]
    report = Report(
        reference=vllm.name, cores=Cores(router=0, load=(1,)), peers=[], systems=[vllm, first, second]
    )
    for system, lost in ((vllm, True), (first, False), (second, True)):
        report.add_fault(CASES[0], system, Seen(text=system.name, lost=lost))

    text = report.text()

    assert f"| case | {vllm.name} | {first.name} | {second.name} |" in text
    assert f"- {first.name}: no request lost\n- {second.name}: lost requests in 1 cases" in text
    assert report.lost_cases(Family.BATON) == 1

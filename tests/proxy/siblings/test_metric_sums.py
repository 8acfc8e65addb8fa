"""What each process counts is summed; what all see is as one sees it."""

from baton.proxy.siblings.metric_sums import summed

OWN = """# HELP baton_proxy_requests_total Requests
# TYPE baton_proxy_requests_total counter
baton_proxy_requests_total{outcome="served"} 2.0
# TYPE baton_proxy_worker_requests gauge
baton_proxy_worker_requests{leg="decode",worker="a b"} 3.0
# TYPE baton_proxy_queue_requests gauge
"""
OTHER = """baton_proxy_requests_total{outcome="served"} 5.0
baton_proxy_requests_total{outcome="failed"} 1.0
baton_proxy_worker_requests{leg="decode",worker="a b"} 3.0
baton_proxy_queue_requests{model="m"} 4.0
"""


def test_counts_are_added_and_views_are_not() -> None:
    lines = summed(OWN, [OTHER, OTHER]).splitlines()

    assert [line for line in lines if line.startswith("#")] == [x for x in OWN.splitlines() if x[0] == "#"]
    assert lines[2:4] == [
        'baton_proxy_requests_total{outcome="served"} 12.0',
        'baton_proxy_requests_total{outcome="failed"} 2.0',
    ]
    assert 'baton_proxy_worker_requests{leg="decode",worker="a b"} 3.0' in lines
    assert lines[-1] == 'baton_proxy_queue_requests{model="m"} 8.0'


def test_alone_nothing_changes() -> None:
    assert summed(OWN, []) == OWN

"""Baton's proxy beside vllm-router and sglang-router: same workers, same load, same cores, in turn.

__main__.py      the command: what is run, in which order, and the verdict
peers.py         the other routers, installed in an environment of their own
systems.py       how each router is started in front of a fleet
cores.py         who runs on which core
compiled.py      mock_worker.c and load.c, compiled and started
workloads.py     what is asked for
measure.py       CPU time, instructions and memory of a router's processes
rounds.py        one round: every workload on every system
table.py         medians, paired ratios, the tables and the last line
report.py        all of it as one text
scripted.py      workers that fail as they are told
block_cache.py   the prefixes that such a worker remembers
client.py        a client that sees how an answer ended
faults.py        ways to fail, and what the client saw
fault_cases.py   the rows of the fault matrix
fidelity.py      what a router changed in a request
prefix_hits.py   prefix cache hit rate by policy
"""

"""A discrete-event simulation of prefill and decode fleets that drives the very policies of the proxy.

No socket, no clock, no thread: events in order of time. `cli/simulate.py` and the benches call it.

engine_model.py   how fast the simulated workers are, as a YAML file
trace.py          requests from Mooncake-format traces
sessions.py       requests of seeded multi-turn sessions
events.py         what happens when
block_cache.py    one worker's KV blocks: reserved, cached, evicted
prefill_sim.py    a prefill worker: queue, chunks, cache
decode_sim.py     decode workers: admission, batches, lockstep steps
links.py          KV on its way
simulation.py     one fleet, one policy, one trace
outcome.py        what came of it: percentiles, goodput, imbalance
runs.py           several policies, several splits of a fleet
table.py  plots.py  report.py   a table, and a self-contained HTML page
progress_bar.py   how far it is
console.py       what the command line asks for, and the text it gets
"""

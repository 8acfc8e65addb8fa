"""Where a request goes, decided without I/O and without a clock: state and time in, decisions out.

What is known
    view.py, fleet.py   of a request; of the workers: states, pairs, work in flight
    memory.py           what was learned, fed by observer.py's events, on top of:
    prefix_index.py     which worker holds how much of a prompt; worker_bits.py: sets of workers
    sessions.py         which workers served a session last
    rates.py            seconds of each worker and link, by least_squares.py
    load.py             what each worker has to do, with prefill_queue.py and ready_order.py
    cache_use.py        what workers report of their caches; cache_events.py corrects the index by it, with
                        event_sequence.py, cached_keys.py and eviction_horizon.py
Who decides
    policy.py           the interface of a policy, and what policies share; by_leg.py: more of that
    policy_file.py      all policies by name: pair_cost.py (prices.py, pools.py), and one file for each other
    why.py              a decision's candidates and terms
    courses.py          the policies in force, by model; decision_log.py: the last decisions
Who may begin
    admission.py        who starts, who waits, who is refused; ticket.py and verdict.py: of whom, and how;
                        slots.py, fair_queue.py, tenants.py and drain_rate.py serve it
What happens to a request
    life.py             one request from its first leg to its last byte: events in, commands.py out
    ledger.py, ids.py   every KV hand-over has one owner; no two requests in flight share an id
    books.py            what is in flight on each worker
    router.py           the above, tied together for one proxy
"""

"""Where a request goes, decided without I/O and without a clock: state and time in, decisions out.

view.py          what a policy may know of a request
fleet.py         the workers: states, pairs, work in flight
policy.py        the interface of a policy, and what policies share
round_robin.py   least_tokens.py    the policies
ledger.py        every KV hand-over has one owner, until it reads zero
ids.py           ids that no two requests in flight share
admission.py     who starts, who waits, who is refused; slots.py, fair_queue.py, tenants.py serve it
life.py          one request from its first leg to its last byte: events in, commands out
courses.py       the policies in force, by model; decision_log.py: the last decisions, for whoever asks why
router.py        the above, tied together for one proxy
"""

"""The front door: takes OpenAI requests, picks a prefill and a decode worker, relays the answer.

The life of a request, and the file it happens in:

    1. front.py      a client's bytes become requests, one after another on a connection
    2. body.py       the top level of the JSON body is split; everything below stays bytes
    3. admission_desk.py  a decode slot is granted, or the request waits for one, or is refused
       routing/      the policy chooses a pair; the request's life and the KV hand-over are kept
    4. exchange.py   does what the life commands: sends legs, keeps deadlines, tells the client
    5. leg.py        one leg on a worker: prefill's answer is read; relay_leg.py: decode's is passed on
    6. upstream.py   kept-alive connections to one worker
    7. reaper.py     tells workers to drop what nobody waits for
       resumption.py a stream whose worker died is computed again (resume_leg.py, continuation.py)

Beside it: compiled.py (which of these run as machine code), prober.py (who is there, who shook hands),
fleet_keeper.py (workers added, drained and removed, as discovery/ or an admin call wants it),
policy_watch.py (policy files that change), admin.py (`/v1/models`, `/ready`, `/fleet`, `/metrics`),
assembly.py (joins them all), server.py (starts and drains it), siblings/ (several processes on one port).
Only `routing/` decides; it has no I/O and no clock.
Importing this package loads neither torch nor triton.
"""

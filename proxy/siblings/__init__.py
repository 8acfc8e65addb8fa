"""Several proxy processes behind one port, each with all of the proxy in it, that know of each other's work.

place.py       which of how many a process is, and where its siblings' sockets are
messages.py    what a process tells its siblings of its requests
publisher.py   collects that from the routing's events: no I/O
shadows.py     a sibling's requests, booked here as if they were this process's own: no I/O
links.py       carries the messages, in batches, over unix sockets
changes.py     admin calls that a process has to catch up with when it starts: no I/O
admin.py       has a call that one process is asked concern all of them
metric_sums.py one text of metrics out of several: no I/O
supervisor.py  starts the processes, and starts one again that ends; __main__.py is one of them

Connections are spread by the kernel (SO_REUSEPORT). A request lives in the process that took it.
"""

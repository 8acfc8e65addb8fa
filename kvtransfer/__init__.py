"""Moving KV blocks from a prefill worker's pool into a decode worker's.

    params      the `kv_transfer_params` object that rides in OpenAI requests (vLLM's dialect)
    layout      what one KV block is made of; peers whose layouts differ are refused
    service     what an engine asks of the transfer side, and the events it gets back
    transports/ NIXL, UCXX and plain sockets behind one small protocol

Decisions (leases, hand-overs) are state machines without I/O; only `transports/` and the control
channel talk. Importing this package loads neither torch nor nixl.
"""

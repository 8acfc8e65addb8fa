"""Moving KV blocks from a prefill worker's pool into a decode worker's.

What others use:
    params             the `kv_transfer_params` object that rides in OpenAI requests (vLLM's dialect)
    layout             what one KV block is made of; peers whose layouts differ are refused
    service            what an engine asks of the transfer side, and the events it gets back
    transfer_service   the implementation of it: `ControlledTransferService`
    digest             digests of prompts and of full blocks
    events             KV events in vLLM's schema; event_publisher sends them over ZMQ

Decisions, without I/O:
    lease              when offered blocks are free again
    pull               the life of one pull, and which bytes are trusted
    peers              which incarnations may be read
    messages           what is said on the control channel, and its frames

Shells around them:
    transfer_thread    the one thread that owns a transport; transports/ has NIXL, UCXX and plain sockets
    control_plane      all that lives on the control thread's event loop:
                       control_server and grant_desk (we are read), peer_links and puller (we read)

Importing this package loads neither torch nor nixl.
"""

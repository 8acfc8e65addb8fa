"""Baton: disaggregated prefill/decode serving for sparse-MoE language models.

The repository's root is this package. Its folders are the nouns of the design:

    proxy            the front door: routes each request to a prefill and a decode worker
    prefill_worker   computes a prompt's KV cache and offers it under a lease
    decode_worker    pulls the KV cache and streams the tokens
    kvtransfer       block layout, handshake, leases, transports
    engine           what both workers share: models, KV pool, sampler, the OpenAI worker API
    kernels          one operation a file: torch reference beside the Triton kernel
    cli              the `baton` command

Importing `baton` or `baton.proxy` loads neither torch nor triton.
"""

__version__ = "0.1.0"

"""What prefill and decode workers share.

A worker is two processes. The frontend (`api/`, `text/`) speaks HTTP, tokenises and detokenises; the engine
holds the model, the KV pool and the scheduler. They exchange the messages of `messages`.
"""

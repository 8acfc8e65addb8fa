"""Ranks: workers that share the experts of one model and therefore compute every step together.

Each rank is a worker of its own, with its requests and its KV. Between attention and experts its tokens
travel to the ranks that own their experts, so no rank can take a step alone:

    group     the rendezvous, and one small all-reduce a step
    interface which network interface its transfers leave by
    watch     wakes ranks that sleep, and tells which rank has ended
    lockstep  what the ranks agree on, decided without I/O
    runner    runs a step's share, or a dummy one, when the ranks have agreed
    phased_model  a model whose layers are told what the ranks agreed on
    regroup   goes on without ranks that leave
    rebalance moves experts between ranks while they serve

A rank that ends brings its group down: the others raise `GroupFailedError`, which names it.
"""

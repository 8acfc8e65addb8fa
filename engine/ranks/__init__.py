"""Ranks: workers that share the experts of one model and therefore compute every step together.

Each rank is a worker of its own, with its requests and its KV. Between attention and experts its tokens
travel to the ranks that own their experts, so no rank can take a step alone:

    group     this rank's membership, over all changes of the group
    link      what the ranks of one meeting reach each other by
    interface which network interface its transfers leave by
    watch     wakes ranks that sleep, and tells which rank has ended
    lockstep  what the ranks agree on, decided without I/O
    runner    runs a step's share, or a dummy one, when the ranks have agreed
    phased_model  a model whose layers are told what the ranks agreed on
    membership  which change of the group is under way, decided without I/O
    regroup   goes on without ranks that leave, and with newcomers
    door      where newcomers call on rank 0
    newcomer  how a worker joins ranks that serve
    messages  what a newcomer and rank 0 say to each other
    rebalance moves experts between ranks while they serve

A rank that ends brings its group down: the others raise `GroupFailedError`, which names it.
"""

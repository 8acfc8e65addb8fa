"""Balancing experts over ranks: which rank should hold which, given what each is asked for. No torch.

A *slot* is a place for one expert's weights on a rank. There are as many slots as experts, plus redundant
ones; an expert in several slots has replicas, among which tokens are spread by a hash.
"""

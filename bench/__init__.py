"""The benchmarks, each beside the limit or the peer that its claim is measured against."""

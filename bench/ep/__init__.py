"""What expert parallelism costs between ranks, and what overlapping two half batches saves."""

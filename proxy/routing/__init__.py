"""Where a request goes, decided without I/O and without a clock: state and time in, decisions out."""

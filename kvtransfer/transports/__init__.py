"""NIXL, UCXX and plain sockets behind one small protocol."""

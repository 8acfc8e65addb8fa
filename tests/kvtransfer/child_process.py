"""A script that forks children for tests, each obeying orders over a Unix socket of its own.

    child_process.py MODULE TRANSPORT SOCKET

MODULE, a file beside this one, has a class `Child` whose public methods are the orders; between two orders
its `poll` is called. The transport's library is loaded once, before the first fork: that takes seconds.
"""

import importlib
import os
import sys
from multiprocessing.connection import Client, Connection
from typing import Any

POLL_S = 0.002
MODULES = {"nixl": "nixl", "ucxx": "ucxx", "socket": "sockets"}


def obey(child: Any, orders: "Connection[Any, Any]") -> None:
    """Carry out orders until told to close."""
    order = ""
    while order != "close":
        while not orders.poll(POLL_S):
            child.poll()
        order, arguments = orders.recv()
        try:
            orders.send((None, getattr(child, order)(*arguments)))
        except Exception as error:
            orders.send((type(error).__name__, str(error)))


def main(module: str, transport: str, address: str) -> None:
    """Fork a child for each order, until the test hangs up."""
    importlib.import_module(f"baton.kvtransfer.transports.{MODULES[transport]}")
    kind = importlib.import_module(module).Child
    with Client(address, "AF_UNIX") as orders:
        while True:
            try:
                name, arguments = orders.recv()
            except EOFError:
                return
            if name == "wait":
                orders.send(os.waitstatus_to_exitcode(os.waitpid(arguments, 0)[1]))
            elif pid := os.fork():
                orders.send(pid)
            else:
                orders.close()
                with Client(arguments[0], "AF_UNIX") as own_orders:
                    child = kind(transport, *arguments[1:])
                    own_orders.send((None, "ready"))
                    obey(child, own_orders)
                # Taking torch apart at interpreter shutdown would cost a second for each child.
                os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])

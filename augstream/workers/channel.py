"""Messages between the trainer and one worker: small, whole or not at all, descriptors beside them.

A pair of connected sockets that keep message boundaries, one pair a worker: nothing is shared between
workers, and there is no lock that could die with its holder. A message is one packet, so it is never half
received, and the death of one side is the end of the other's reading.
"""

from __future__ import annotations

import os
import pickle
import select
import socket
from multiprocessing.util import register_after_fork
from typing import Any

from ..errors import TOO_MANY_FILES, WorkerError

_MAX_MESSAGE_BYTES = 1 << 17


class ChannelClosed(Exception):  # noqa: N818  # it is an event
    """The other side is gone."""


class Channel:
    """One end of a pair. Pickles for processes being started; an end is closed by `close`, or with its process."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        end.setblocking(False)

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """(the trainer's end, the worker's end). Processes that multiprocessing forks close the trainer's."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        trainer = cls(ours)
        # else a worker forked later would hold its sisters' trainer ends open, and they would not see us die
        register_after_fork(trainer, Channel.close)
        return trainer, cls(theirs)

    def fileno(self) -> int:
        """The descriptor to wait on; -1 when closed."""
        return self._socket.fileno()

    def send(self, message: Any, descriptor: int | None = None) -> None:
        """Send a message, and a copy of `descriptor`; raise `ChannelClosed` if nobody is there to receive.

        Never waits: a receiver that takes nothing for so long that the socket is full counts as gone.
        """
        if not self.offer(message, descriptor):
            raise ChannelClosed

    def offer(self, message: Any, descriptor: int | None = None) -> bool:
        """Send as `send` does; False, and nothing is sent, if the socket is full of what was not received yet."""
        packet = pickle.dumps(message, protocol=5)
        if len(packet) > _MAX_MESSAGE_BYTES:
            msg = f"a message of {len(packet)} bytes is too long; {_MAX_MESSAGE_BYTES} is the most"
            raise WorkerError(msg)
        try:
            if descriptor is None:
                self._socket.send(packet)
            else:
                socket.send_fds(self._socket, [packet], [descriptor])
        except BlockingIOError:
            return False
        except OSError as error:
            raise ChannelClosed from error
        return True

    def receive(self) -> tuple[Any, int | None] | None:
        """The next message and the descriptor that came with it; None if none is there yet.

        Raises `ChannelClosed` when the other side is gone and everything it sent has been received.
        """
        while True:
            try:
                packet, descriptors, flags, _ = socket.recv_fds(self._socket, _MAX_MESSAGE_BYTES, 1)
            except BlockingIOError:
                return None
            except ConnectionResetError:
                continue  # it died without reading all we sent; what it sent before is still to be received
            except OSError as error:
                raise ChannelClosed from error
            if not packet or flags & socket.MSG_TRUNC:
                raise ChannelClosed
            if flags & socket.MSG_CTRUNC:
                msg = f"a worker's memory could not be received: {TOO_MANY_FILES}"
                raise WorkerError(msg)
            return pickle.loads(packet), descriptors[0] if descriptors else None  # noqa: S301  # our own process's

    def wait(self, timeout_s: float, *, for_room: bool = False) -> bool:
        """Whether a message, or the end, or, if asked for, room to send one, is there within `timeout_s`."""
        poller = select.poll()
        poller.register(self._socket, select.POLLIN | (select.POLLOUT if for_room else 0))
        return bool(poller.poll(timeout_s * 1000))

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def __del__(self) -> None:
        self.close()


def is_orphan(parent: int) -> bool:
    """Whether the process that started this one, `parent` by its number, is gone."""
    return os.getppid() != parent

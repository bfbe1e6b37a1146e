"""Messages come whole, in order, or not at all; the end of one side is seen by the other."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal

import pytest

from augstream.errors import WorkerError
from augstream.workers.channel import Channel, ChannelClosed, is_orphan
from augstream.workers.slots import anonymous_file, mapped


def test_messages_and_descriptors_arrive_in_order():
    ours, theirs = Channel.pair()
    assert ours.receive() is None
    descriptor = anonymous_file(4096)
    theirs.send({"a": 1})
    theirs.send("with memory", descriptor)
    theirs.send([2])
    assert ours.wait(0)
    assert ours.receive() == ({"a": 1}, None)
    text, received = ours.receive()
    assert text == "with memory"
    mapped(descriptor, close=True)[0] = 7
    assert mapped(received, close=True)[0] == 7
    assert ours.receive() == ([2], None)
    assert ours.receive() is None
    assert not ours.wait(0)


def test_what_was_sent_before_the_end_is_received():
    ours, theirs = Channel.pair()
    ours.send("never read")
    theirs.send("last words")
    theirs.close()
    assert ours.receive() == ("last words", None)
    with pytest.raises(ChannelClosed):
        ours.receive()
    with pytest.raises(ChannelClosed):
        ours.send("too late")


def test_sending_never_waits():
    ours, theirs = Channel.pair()
    with pytest.raises(ChannelClosed):
        list(map(ours.send, [b"x" * 1000] * 100_000))
    assert theirs.receive() is not None


def test_a_message_too_long_is_refused():
    ours, _theirs = Channel.pair()
    with pytest.raises(WorkerError, match="too long"):
        ours.send(b"x" * 200_000)


def test_a_channel_that_is_dropped_is_closed():
    ours, theirs = Channel.pair()
    del theirs
    gc.collect()
    with pytest.raises(ChannelClosed):
        ours.receive()


def echo(channel, parent):
    while not is_orphan(parent):
        if channel.wait(0.1):
            try:
                message = channel.receive()
            except ChannelClosed:
                return
            if message is not None:
                channel.send(message[0])


@pytest.mark.processes
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_every_kind_talk_and_their_deaths_are_seen(method):
    context = multiprocessing.get_context(method)
    pairs = [Channel.pair() for _ in range(2)]
    parents = os.getpid() if method != "forkserver" else -1
    processes = [
        context.Process(
            target=echo if method != "forkserver" else echo_once, args=(theirs, parents), daemon=True
        )
        for _, theirs in pairs
    ]
    for process, (ours, theirs) in zip(processes, pairs, strict=True):
        process.start()
        theirs.close()
        ours.send("hello")
        assert ours.wait(60)
        assert ours.receive() == ("hello", None)
    os.kill(processes[0].pid, signal.SIGKILL)
    assert pairs[0][0].wait(10)
    with pytest.raises(ChannelClosed):
        pairs[0][0].receive()
    pairs[1][0].close()  # the second process does not hold the first's end, nor its own trainer's
    processes[1].join(10)
    assert processes[1].exitcode == 0


def echo_once(channel, _parent):
    """As `echo`, for a process whose parent is the fork server."""
    echo(channel, os.getppid())

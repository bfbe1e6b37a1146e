"""Messages come whole, in order, or not at all; the end of one side is seen by the other."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import threading

import pytest
from engine import dataset_of

from augstream.errors import WorkerError
from augstream.workers.channel import Channel, ChannelClosed, is_orphan
from augstream.workers.slots import anonymous_file, mapped
from augstream.workers.worker import Assignment, Grant, Hello, Worker


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


def filled(channel):
    """How many messages were sent until there was no room for more."""
    return sum(1 for _ in iter(lambda: channel.offer("filling"), False))


def test_what_there_is_no_room_for_can_be_offered_again():
    ours, theirs = Channel.pair()
    num_sent = filled(theirs)
    assert num_sent > 64  # grants: see the pool
    assert not theirs.wait(0, for_room=True)
    assert [ours.receive() for _ in range(num_sent)] == [("filling", None)] * num_sent
    assert theirs.wait(0, for_room=True)
    assert theirs.offer("again")
    assert ours.receive() == ("again", None)
    ours.close()
    assert theirs.wait(0)
    with pytest.raises(ChannelClosed):
        theirs.offer("to nobody")


class Watched(Channel):
    """A channel that tells when there was no room in it."""

    def __init__(self, end):
        super().__init__(end)
        self.was_full = threading.Event()

    def offer(self, message, descriptor=None):
        is_sent = super().offer(message, descriptor)
        if not is_sent:
            self.was_full.set()
        return is_sent


def test_a_worker_waits_for_room_and_listens_meanwhile(shards):
    dataset = dataset_of(shards)
    ours, theirs = Watched.pair()
    worker = Worker(dataset.stream, dataset.topology(1), 0, theirs)
    num_sent = filled(theirs)
    theirs.was_full.clear()

    def run():
        with contextlib.suppress(ChannelClosed):
            worker.run()
        theirs.close()

    thread = threading.Thread(target=run, daemon=True)
    ours.send(Assignment(1, 0, 0, 0, 1, (), run_on=False))
    thread.start()
    assert theirs.was_full.wait(60)
    ours.send(Grant(1, ()))  # so that it makes two
    assert isinstance(ours.receive()[0], Hello)
    read = [ours.receive()[0] for _ in range(num_sent)]
    while len(read) < num_sent + 2:
        assert ours.wait(60)
        read.append(ours.receive()[0])
    assert [(message.epoch, message.step) for message in read[num_sent:]] == [(0, 0), (0, 1)]
    ours.close()
    thread.join(60)
    assert not thread.is_alive()


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

"""Whatever is done to a loader, in whatever order, it delivers the plain order from where its state says."""

from __future__ import annotations

import json
import os
import signal
from itertools import islice

import pytest
from engine import dataset_of, epochs_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import augstream as A
from augstream.digest import digest

pytestmark = [pytest.mark.processes, pytest.mark.slow]

NUM_EPOCHS, NUM_BATCHES = 6, 10


class LoaderMachine(RuleBasedStateMachine):
    """A real loader beside the list of all batches, computed one by one."""

    shards: list[str]
    expected: list[list[str]]

    @initialize(num_workers=st.integers(0, 3), workers=st.sampled_from(["process", "thread"]))
    def start(self, num_workers, workers):
        self.loader = None
        self.epoch, self.done = 0, 0
        self.saved = []
        self.open(num_workers, workers, 2, True)

    def open(self, num_workers, workers, prefetch_factor, persistent):
        self.close()
        self.loader = A.StreamLoader(
            dataset_of(self.shards), num_workers=num_workers, workers=workers, prefetch_factor=prefetch_factor,
            persistent_workers=persistent, max_respawns=1000,
        )  # fmt: skip

    def close(self):
        if self.loader is not None:
            self.loader.close()

    @rule(count=st.integers(1, 12))
    def deliver(self, count):
        if self.done == NUM_BATCHES:
            self.epoch, self.done = self.epoch + 1, 0
        if self.epoch == NUM_EPOCHS:
            return
        found = [digest(batch) for batch in islice(self.loader, count)]
        expected = self.expected[self.epoch][self.done : self.done + count]
        assert found == expected
        self.done += len(expected)
        if len(expected) < count:  # the loop has seen the end
            self.epoch, self.done = self.epoch + 1, 0

    @rule()
    def save(self):
        self.saved.append((json.dumps(self.loader.state_dict()), self.epoch, self.done))

    @rule(which=st.integers(0, 100))
    def restore(self, which):
        if self.saved:
            text, self.epoch, self.done = self.saved[which % len(self.saved)]
            self.loader.load_state_dict(json.loads(text))
            if self.done == NUM_BATCHES:
                self.epoch, self.done = self.epoch + 1, 0

    @rule(
        num_workers=st.integers(0, 3), workers=st.sampled_from(["process", "thread"]),
        prefetch_factor=st.integers(1, 3), persistent=st.booleans(),
    )  # fmt: skip
    def move_to_another_loader(self, num_workers, workers, prefetch_factor, persistent):
        state = self.loader.state_dict()
        self.open(num_workers, workers, prefetch_factor, persistent)
        self.loader.load_state_dict(state)
        if self.done == NUM_BATCHES:
            self.epoch, self.done = self.epoch + 1, 0

    @rule(epoch=st.integers(0, NUM_EPOCHS - 1))
    def set_epoch(self, epoch):
        self.loader.set_epoch(epoch)
        following = self.epoch + (self.done == NUM_BATCHES)
        if epoch != following:
            self.epoch, self.done = epoch, 0

    @rule(which=st.integers(0, 5))
    def kill(self, which):
        pids = [pid for pid in self.loader.worker_pids if pid != os.getpid()]
        if pids:
            os.kill(pids[which % len(pids)], signal.SIGKILL)

    @rule()
    def begin_a_pass_and_leave_it(self):
        if self.done == NUM_BATCHES:
            self.epoch, self.done = self.epoch + 1, 0
        iter(self.loader)

    @rule()
    def end_the_workers(self):
        self.loader.close()

    @invariant()
    def the_state_says_where_we_are(self):
        if getattr(self, "loader", None) is not None:
            state = self.loader.state_dict()
            place = (self.epoch + 1, 0) if self.done == NUM_BATCHES else (self.epoch, self.done)
            assert (state["epoch"], state["units"]) == place
            assert self.loader.epoch in {place[0], self.epoch}

    def teardown(self):
        if getattr(self, "loader", None) is not None:
            self.close()


def test_whatever_is_done_the_order_holds(shards):
    LoaderMachine.shards = shards
    LoaderMachine.expected = epochs_of(dataset_of(shards), NUM_EPOCHS)
    run_state_machine_as_test(
        LoaderMachine, settings=settings(max_examples=25, stateful_step_count=20, deadline=None)
    )

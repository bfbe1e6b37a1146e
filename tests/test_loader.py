from __future__ import annotations

import contextlib
import copy
import gc
import inspect
import itertools
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from engine import FailAt, NoArrayAt, ResizeByHand, WrongSizeAt, dataset_of, digests, epochs_of

import augstream as A
from augstream.digest import digest
from augstream.errors import RecipeError, SampleError, StateError, TopologyError

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def dataset(shards):
    return dataset_of(shards)


@pytest.fixture(scope="module")
def epochs(dataset):
    return epochs_of(dataset, 3)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("num_workers", "method", "persistent", "prefetch_factor"),
    [
        (0, "fork", True, 2),
        (0, "fork", False, 2),
        *itertools.product((1, 2, 5), ("fork",), (True, False), (1, 4)),
        *[
            pytest.param(*case, marks=pytest.mark.slow)
            for case in itertools.product((1, 2, 5), ("spawn", "forkserver"), (True, False), (1, 4))
        ],
    ],
)
def test_workers_do_not_matter(dataset, epochs, num_workers, method, persistent, prefetch_factor):
    with A.StreamLoader(
        dataset, num_workers=num_workers, multiprocessing_context=method, persistent_workers=persistent,
        prefetch_factor=prefetch_factor,
    ) as loader:  # fmt: skip
        assert [digests(loader) for _ in range(2)] == epochs[:2]
        assert loader.epoch == 2
        assert loader.stats.batches == 2 * len(loader) == 20
        assert loader.stats.samples == 2 * 37
        assert loader.stats.transfer_s > 0
        assert loader.stats.respawns == 0


def test_epochs_differ(epochs):
    assert len(set(itertools.chain(*epochs))) == 30


@pytest.mark.processes
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_later_epoch_alone_is_that_epoch_of_the_long_run(dataset, num_workers):
    expected = epochs_of(dataset, 8)[7]
    with A.StreamLoader(dataset, num_workers=num_workers) as loader:
        loader.set_epoch(7)
        assert loader.epoch == 7
        assert digests(loader) == expected
        assert loader.epoch == 8


@pytest.mark.processes
@pytest.mark.parametrize("num_workers", [0, 1, 2, 3])
def test_resume_after_every_batch_into_every_number_of_workers(dataset, epochs, num_workers):
    """Each state goes through JSON, into a loader that has been elsewhere meanwhile."""
    whole = [*epochs[0], *epochs[1]]
    states = []
    with A.StreamLoader(dataset, num_workers=num_workers) as loader:
        states.append(loader.state_dict())
        for _ in range(2):
            states += [(digest(batch), loader.state_dict())[1] for batch in loader]
    with A.StreamLoader(dataset, num_workers=(num_workers + 1) % 4) as other:
        for done, state in enumerate(states):
            text = json.dumps(state)
            assert len(text) < 1024
            other.load_state_dict(json.loads(text))
            assert other.epoch == done // 10
            assert digests(other) == whole[done : (done // 10 + 1) * 10] or done == 20
            assert other.epoch == done // 10 + 1


def run_script(*arguments, text=""):
    """What another Python prints, having said nothing else."""
    run = subprocess.run(
        [sys.executable, *arguments], input=text, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout


RESUME = """
import json, sys
from engine import dataset_of, digests
import augstream as A
job = json.load(sys.stdin)
found = []
for num_workers in job["num_workers"]:
    with A.StreamLoader(dataset_of(job["shards"]), num_workers=num_workers) as loader:
        for state in job["states"]:
            loader.load_state_dict(state)
            found.append(digests(loader))
print(json.dumps(found))
"""


@pytest.mark.processes
@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_in_a_fresh_process(dataset, epochs, shards, num_workers):
    """After every batch of an epoch, into every number of workers."""
    with A.StreamLoader(dataset, num_workers=num_workers) as loader:
        states = [loader.state_dict(), *[loader.state_dict() for _ in loader]]
    counts = [0, 1, 2, 5]
    job = {"shards": shards, "num_workers": counts, "states": states}
    rest = [epochs[0][done:] or epochs[1] for done in range(len(states))]
    assert json.loads(run_script("-c", RESUME, text=json.dumps(job))) == rest * len(counts)


@pytest.mark.processes
@pytest.mark.parametrize("num_workers", [0, 2])
class TestPosition:
    def test_a_loop_that_was_left_goes_on_where_it_was_left(self, dataset, epochs, num_workers):
        with A.StreamLoader(dataset, num_workers=num_workers) as loader:
            seen = []
            for batch in loader:
                seen.append(digest(batch))
                if len(seen) == 3:
                    break
            assert loader.epoch == 0
            assert seen + digests(loader) == epochs[0]
            assert digests(loader) == epochs[1]

    def test_a_loop_that_stops_at_the_last_batch_has_ended_its_epoch(self, dataset, epochs, num_workers):
        with A.StreamLoader(dataset, num_workers=num_workers) as loader:
            assert digests(itertools.islice(loader, len(loader))) == epochs[0]
            assert loader.epoch == 0
            assert (loader.state_dict()["epoch"], loader.state_dict()["units"]) == (1, 0)
            assert digests(loader) == epochs[1]

    def test_set_epoch_before_every_epoch_does_no_harm(self, dataset, epochs, num_workers):
        with A.StreamLoader(dataset, num_workers=num_workers) as loader:
            for epoch in range(3):
                loader.set_epoch(epoch)
                assert digests(loader) == epochs[epoch]
            loader.set_epoch(1)
            first = digest(next(iter(loader)))
            state = loader.state_dict()
            loader.set_epoch(2)
            assert digests(loader) == epochs[2]
            loader.load_state_dict(state)
            loader.set_epoch(1)
            assert [first, *digests(loader)] == epochs[1]

    def test_moving_the_loader_under_a_loop_is_refused(self, dataset, num_workers):
        with A.StreamLoader(dataset, num_workers=num_workers) as loader:
            batches = iter(loader)
            next(batches)
            loader.set_epoch(5)
            with pytest.raises(StateError, match="moved by set_epoch or load_state_dict"):
                next(batches)

    def test_a_closed_loader_keeps_its_place(self, dataset, epochs, num_workers):
        loader = A.StreamLoader(dataset, num_workers=num_workers)
        seen = digests(itertools.islice(loader, 4))
        loader.close()
        assert seen + digests(loader) == epochs[0]
        loader.close()
        loader.close()


@pytest.mark.processes
@pytest.mark.parametrize("num_workers", [0, 2])
class TestMemory:
    def test_batches_that_are_kept_stay_as_they_were(self, dataset, epochs, num_workers):
        with A.StreamLoader(dataset, num_workers=num_workers) as loader:
            kept = [*loader, *loader]
        gc.collect()
        assert digests(kept) == [*epochs[0], *epochs[1]]

    def test_a_row_of_a_batch_keeps_its_memory(self, dataset, num_workers):
        with A.StreamLoader(dataset, num_workers=num_workers) as loader:
            rows = [(batch["image"][-1], batch["image"][-1].clone()) for batch in loader]
            for _ in range(2):
                for _ in loader:
                    pass
        assert all(torch.equal(row, copy) for row, copy in rows)

    def test_a_batch_may_be_written_to(self, dataset, epochs, num_workers):
        with A.StreamLoader(dataset, num_workers=num_workers) as loader:
            for batch in loader:
                batch["image"].zero_()
            assert digests(loader) == epochs[1]

    def test_memory_is_used_again(self, dataset, num_workers):
        with A.StreamLoader(dataset, num_workers=num_workers) as loader:
            places = set()
            for _ in range(5):
                places |= {batch["image"].data_ptr() for batch in loader}
        assert len(places) <= max(num_workers, 1) * (loader.prefetch_factor + 3)


def test_file_descriptors_do_not_leak(dataset):
    def count():
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    def run():
        with A.StreamLoader(dataset, num_workers=2) as loader:
            return len([batch["cls"] for batch in loader])

    run()
    before = count()
    for _ in range(3):
        run()
    assert count() == before
    assert not multiprocessing.active_children()


def test_a_loader_that_is_dropped_takes_its_workers_with_it(dataset):
    loader = A.StreamLoader(dataset, num_workers=2)
    next(iter(loader))
    assert len(multiprocessing.active_children()) == 2
    del loader
    gc.collect()
    assert not multiprocessing.active_children()


def interrupted(loader, line):
    """What a loop over `loader` gets to the end of epoch 1, by place, if a Ctrl-C comes before the `line`th line of the
    loader's code and the loop begins again; and whether it came."""
    found, left = {}, line

    def trace(frame, event, _):
        nonlocal left
        if frame.f_code.co_filename != inspect.getfile(A.StreamLoader):
            return None
        left -= event == "line"
        if left == 0:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        done = False
        while not done:
            with contextlib.suppress(KeyboardInterrupt):
                while loader.state_dict()["epoch"] < 2:
                    for batch in loader:
                        state = loader.state_dict()
                        found[state["epoch"], state["units"]] = batch["__key__"]
                done = True
    finally:
        sys.settrace(before)
    return found, left <= 0


@pytest.mark.parametrize("arguments", [{}, {"num_workers": 1, "workers": "thread"}])
def test_ctrl_c_at_any_line_mixes_nothing_up(shards, arguments):
    dataset = A.StreamDataset(shards, batch_size=13, seed=1, fields={"cls": "cls"})
    state = dataset.state_dict(epoch=0, num_batches=1)
    with A.StreamLoader(dataset, **arguments) as loader:
        loader.load_state_dict(state)
        whole, _ = interrupted(loader, 0)
        assert list(whole) == [(0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]
        came, line = True, 0
        while came:
            line += 1
            loader.load_state_dict(state)
            found, came = interrupted(loader, line)
            assert found.items() <= whole.items(), line
            assert len(found) >= len(whole) - came, (
                line
            )  # what was counted, and on its way to the loop, is gone
        assert line > 100


FILES = """
import os, resource, sys
import augstream as A
from augstream.errors import WorkerError
from engine import dataset_of, digests

with A.StreamLoader(dataset_of(sys.argv[1:]), num_workers=2, prefetch_factor=4) as loader:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, limits[1]))
    try:
        next(iter(loader))
    except WorkerError as error:
        print(error)
    print(loader.worker_pids, loader.state_dict()["units"])
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    print(len(digests(loader)))
"""


@pytest.mark.processes
def test_too_few_files_are_told_what_to_do(shards, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(FILES)
    said, after, whole = run_script(script, *shards).splitlines()
    assert "no batch could be had: this process has as many files open as it may; raise the limit" in said
    assert (after, whole) == ("[] 0", "10")


def stream_as_a_daemon(dataset, answers):
    for workers in ("process", "thread"):
        try:
            answers.send(digests(A.StreamLoader(dataset, num_workers=1, workers=workers)))
        except RecipeError as error:
            answers.send(str(error))


@pytest.mark.processes
def test_a_daemon_is_told_how_to_do_without_processes(dataset, epochs):
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    context.Process(target=stream_as_a_daemon, args=(dataset, theirs), daemon=True).start()
    theirs.close()
    assert (
        "is a daemon, to which multiprocessing allows no worker processes: pass num_workers=0" in ours.recv()
    )
    assert ours.recv() == epochs[0]


def go_on_and_close(loader, answers):
    signal.alarm(60)  # a child that hangs ends, and its parent sees no answer
    answers.send((digests(loader), loader.worker_pids))
    loader.close()
    answers.send(loader.worker_pids)


@pytest.mark.processes
def test_a_fork_goes_on_with_workers_of_its_own(dataset, epochs):
    context = multiprocessing.get_context("fork")
    with A.StreamLoader(dataset, num_workers=2) as loader:
        next(iter(loader))
        pids = loader.worker_pids
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=go_on_and_close, args=(loader, theirs))
        child.start()
        theirs.close()
        rest, childs_pids = ours.recv()
        assert rest == epochs[0][1:]
        assert len(set(childs_pids) - set(pids)) == 2
        assert ours.recv() == []
        child.join()
        assert child.exitcode == 0
        assert loader.worker_pids == pids  # it took nothing from the process that forked
        assert digests(loader) == epochs[0][1:]
        assert loader.stats.respawns == 0


IMPORTS = """
import sys
import augstream as A
from engine import dataset_of

class Report:
    def __call__(self, sample, rng):
        return {"image": sample["image"][:8, :8], "modules": ",".join(sys.modules)}

if __name__ == "__main__":
    dataset = dataset_of(sys.argv[1:], Report())
    with A.StreamLoader(dataset, num_workers=1, multiprocessing_context="spawn") as loader:
        print(next(iter(loader))["modules"][0])
"""


@pytest.mark.processes
def test_a_spawned_worker_imports_neither_torch_nor_webdataset(shards, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(IMPORTS)
    modules = set(run_script(script, *shards).strip().split(","))
    assert "numpy" in modules
    assert not modules & {"torch", "webdataset"}


@pytest.mark.processes
@pytest.mark.parametrize("num_workers", [0, 2])
class TestErrors:
    def test_an_error_is_raised_in_its_turn_and_again_when_tried_again(self, shards, num_workers):
        dataset = dataset_of(shards, FailAt(keys=("000011",)))
        plan = dataset.stream.plan(dataset.topology())
        with A.StreamLoader(dataset, num_workers=num_workers) as loader:
            seen = []
            with pytest.raises(SampleError, match="OSError: no luck with 000011") as caught:
                seen.extend(key for batch in loader for key in batch["__key__"])
            error = caught.value
            assert error.key == "000011"
            assert error.epoch == 0
            assert f"augstream replay '{error.address}'" in str(error)
            done = loader.state_dict()["units"]
            assert done * 4 == len(seen)
            assert "000011" in [key for _, key in names(dataset, 0, plan.units_of_step(done))]
            with pytest.raises(SampleError, match="no luck"):
                next(iter(loader))
            if num_workers:
                assert "worker process" in error.__notes__[0]
                assert "engine.py" in error.__notes__[0]

    def test_a_skipped_sample_changes_no_other(self, shards, num_workers, caplog):
        keys = ("000003", "000011", "000012", "000036")
        whole = list(A.StreamLoader(dataset_of(shards, ResizeByHand())))
        with A.StreamLoader(
            dataset_of(shards, FailAt(keys=keys), on_error="skip"), num_workers=num_workers
        ) as loader:
            for batch, complete in zip(loader, whole, strict=True):
                kept = [place for place, key in enumerate(complete["__key__"]) if key not in keys]
                assert batch["__key__"] == [complete["__key__"][place] for place in kept]
                assert torch.equal(batch["image"], complete["image"][kept])
                assert torch.equal(batch["drawn"], complete["drawn"][kept])
            assert loader.stats.skipped == 4
            assert loader.stats.samples == 33
        lines = [record for record in caplog.records if "skipped sample" in record.message]
        assert len(lines) == 3  # once a shard

    def test_pictures_of_another_size_are_named_or_skipped(self, shards, num_workers):
        stage = WrongSizeAt(keys=("000011",))
        with A.StreamLoader(dataset_of(shards, stage), num_workers=num_workers) as loader:
            with pytest.raises(
                SampleError, match=r"(?s)\(30, 40, 3\).*'000011'.*RandomResizedCrop"
            ) as caught:
                list(loader)
            assert caught.value.key == "000011"
        with A.StreamLoader(dataset_of(shards, stage, on_error="skip"), num_workers=num_workers) as loader:
            keys = [key for batch in loader for key in batch["__key__"]]
            assert len(keys) == 36
            assert "000011" not in keys

    def test_pictures_that_are_no_arrays_are_named_or_skipped(self, shards, num_workers):
        stage = NoArrayAt(keys=("000011",))
        with A.StreamLoader(dataset_of(shards, stage), num_workers=num_workers) as loader:
            with pytest.raises(
                SampleError, match=r"'000011' of 'train-.* is a torch\.bfloat16 tensor"
            ) as caught:
                list(loader)
            assert caught.value.key == "000011"
        with A.StreamLoader(dataset_of(shards, stage, on_error="skip"), num_workers=num_workers) as loader:
            assert sum(len(batch["__key__"]) for batch in loader) == 36
            assert loader.stats.skipped == 1

    def test_a_batch_of_failures_is_an_error_even_where_failures_are_skipped(self, shards, num_workers):
        keys = tuple(f"{number:06d}" for number in range(37))
        with (
            A.StreamLoader(
                dataset_of(shards, FailAt(keys=keys), on_error="skip"), num_workers=num_workers
            ) as loader,
            pytest.raises(SampleError, match="all 4 samples of a batch failed"),
        ):
            next(iter(loader))


def names(dataset, epoch, units):
    from augstream.stream import Maker

    maker = Maker(dataset.stream)
    return [maker.name(ref) for ref in maker.refs(epoch, units)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_workers": -1}, "num_workers must be"),
        ({"prefetch_factor": 0}, "prefetch_factor must be"),
        ({"max_respawns": 0}, "max_respawns must be"),
        ({"timeout_s": 0}, "timeout_s must be"),
        ({"timeout_s": "2"}, "timeout_s must be"),
        ({"num_workers": 1, "multiprocessing_context": "thread"}, "multiprocessing_context must be"),
    ],
)
def test_arguments_that_cannot_be_are_refused(dataset, arguments, message):
    with pytest.raises((RecipeError, TopologyError), match=message):
        A.StreamLoader(dataset, **arguments)


def test_only_stream_datasets_are_taken():
    with pytest.raises(RecipeError, match="StreamDataset"):
        A.StreamLoader([1, 2, 3])


@pytest.mark.processes
def test_more_workers_than_batches(shards):
    dataset = dataset_of(shards, batch_size=16)
    with A.StreamLoader(dataset, num_workers=5) as loader:
        assert [digests(loader) for _ in range(3)] == epochs_of(dataset, 3)
        assert len(multiprocessing.active_children()) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, "version 99"),
        ({"units": -1}, "units must be"),
        ({"units": 10_000}, "units must be"),
        ({"index": "0" * 32}, "index: saved"),
        ({"epoch": None}, "epoch must be"),
    ],
)
def test_states_that_do_not_fit_are_refused(dataset, change, message):
    loader = A.StreamLoader(dataset)
    with pytest.raises(StateError, match=message):
        loader.load_state_dict({**loader.state_dict(), **change})
    assert loader.epoch == 0


def test_states_of_another_recipe_or_cut_short_are_refused(shards, dataset):
    loader = A.StreamLoader(dataset)
    with pytest.raises(StateError, match="seed: saved 1, now 137"):
        loader.load_state_dict(A.StreamLoader(dataset_of(shards, seed=1)).state_dict())
    with pytest.raises(StateError, match=r"unit: saved 8, now 4"):
        loader.load_state_dict(A.StreamLoader(dataset_of(shards, batch_size=8)).state_dict())
    with pytest.raises(StateError, match="not JSON"):
        loader.load_state_dict(json.dumps(loader.state_dict())[:50])


@pytest.mark.processes
def test_the_batch_size_may_change_where_the_unit_allows(shards):
    small = A.StreamLoader(dataset_of(shards, batch_size=4, unit=2))
    seen = [key for batch in itertools.islice(small, 3) for key in batch["__key__"]]
    with A.StreamLoader(dataset_of(shards, batch_size=8, unit=2), num_workers=2) as large:
        large.load_state_dict(small.state_dict())
        seen += [key for batch in large for key in batch["__key__"]]
    assert seen == [key for batch in dataset_of(shards, batch_size=2) for key in batch["__key__"]]


@pytest.mark.processes
def test_ranks_share_an_epoch_between_them(shards, epochs):
    for world_size, tail in ((2, "drop"), (3, "drop"), (3, "pad")):
        parts = []
        for rank in range(world_size):
            dataset = dataset_of(shards, rank=rank, world_size=world_size, tail=tail)
            with A.StreamLoader(dataset, num_workers=rank) as loader:
                parts.append(digests(loader))
                assert len(loader) == len(parts[-1])
        merged = [batch for step in zip(*parts, strict=True) for batch in step]
        expected = (
            [*epochs[0], *epochs[0][:2]] if tail == "pad" else epochs[0][: 10 // world_size * world_size]
        )
        assert merged == expected


def test_states_are_equal_on_all_ranks(shards):
    states = []
    for rank in range(2):
        loader = A.StreamLoader(dataset_of(shards, rank=rank, world_size=2))
        for _ in itertools.islice(loader, 3):
            pass
        states.append(loader.state_dict())
    assert states[0] == states[1]
    assert states[0]["units"] == 6


@pytest.mark.processes
def test_a_collate_fn_of_the_users_own(shards):
    dataset = dataset_of(shards, collate_fn=keys_and_mean)
    expected = epochs_of(dataset, 1)[0]
    for num_workers in (0, 2):
        with A.StreamLoader(dataset, num_workers=num_workers) as loader:
            assert digests(loader) == expected
            keys, mean = next(iter(loader))
            assert len(keys) == 4
            assert isinstance(mean, torch.Tensor)


def keys_and_mean(samples):
    return [sample["__key__"] for sample in samples], torch.stack(
        [torch.from_numpy(sample["image"]).float().mean() for sample in samples]
    )


@pytest.mark.processes
def test_a_batch_that_cannot_leave_its_process_is_told_what_to_do(shards):
    dataset = dataset_of(shards, collate_fn=lambda samples: (sample["image"] for sample in samples))
    assert len(list(next(iter(A.StreamLoader(dataset))))) == 4
    with A.StreamLoader(dataset, num_workers=1) as loader:
        with pytest.raises(
            RecipeError, match=r"passed on .*'generator' object; .*workers='thread' or num_workers=0"
        ):
            next(iter(loader))
        assert loader.state_dict()["units"] == 0


@pytest.mark.parametrize("arguments", [{}, {"num_workers": 2, "workers": "thread"}, {"num_workers": 2}])
def test_a_copy_of_a_loader_or_dataset_goes_on_by_itself(dataset, epochs, arguments, tmp_path):
    copied = pickle.loads(pickle.dumps(dataset))  # noqa: S301  # our own bytes
    assert digests(A.StreamLoader(copied)) == epochs[0]
    with A.StreamLoader(dataset, **arguments) as loader:
        next(iter(loader))
        pids = loader.worker_pids
        for other in (copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))):  # noqa: S301  # our own bytes
            with other:
                assert other.worker_pids == []
                assert digest(next(iter(other))) == epochs[0][1]
        assert loader.worker_pids == pids
        assert digest(next(iter(loader))) == epochs[0][1]
    with A.StreamLoader(dataset, ledger=tmp_path / "run.ledger", **arguments) as loader:
        next(iter(loader))
        other = copy.deepcopy(loader)
    with other:  # one at a time may write a ledger
        assert digests(other) == epochs[0][1:]


def test_a_transform_that_spawn_cannot_pickle_is_told_what_to_do(shards):
    dataset = A.StreamDataset(
        shards, lambda sample, rng: {**sample, "draw": rng.random()}, batch_size=4, seed=137
    )
    for method in ("spawn", "forkserver"):
        loader = A.StreamLoader(dataset, num_workers=1, multiprocessing_context=method)
        with pytest.raises(RecipeError, match=rf"by {method}.* top level of a module.*context='fork'"):
            next(iter(loader))
        assert loader.worker_pids == []


def test_a_loader_and_its_dataset_say_what_they_are(shards):
    loader = A.StreamLoader(A.StreamDataset(shards, None, batch_size=4, seed=137))
    stream = f"StreamDataset({loader.dataset.recipe!r})"
    assert repr(loader) == f"<StreamLoader of {stream}: epoch 0, step 0, 0 workers>"
    unending = A.Mixture({"a": loader.dataset}, weights={"a": 1}, seed=137, epochs=None)  # it has no length
    assert repr(A.StreamLoader(unending)) == f"<StreamLoader of {unending!r}: epoch 0, step 0, 0 workers>"
    assert repr(unending) == f"Mixture({unending.recipe!r})"

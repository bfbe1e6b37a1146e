"""What is known of webdataset's stages: which numbers they draw, what they hold back, and what mends it.

Read off webdataset 1.0.2, whose built pipelines can be looked into: a `FilterFunction` shows its function and its
arguments.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import webdataset
from torch.utils.data import DataLoader
from webdataset import filters, shardlists

from .batches import Batched
from .shards import ShardSource
from .stage import Augment

Kind = Literal["chance", "loses", "repeats", "fresh", "workers", "fork", "unknown"]
KINDS: Mapping[Kind, str] = {
    "chance": "left to chance: another run gets something else",
    "loses": "loses or doubles samples",
    "repeats": "repeats itself: what should differ is alike",
    "fresh": "repeats itself, unless the workers live on from epoch to epoch",
    "workers": "depends on the number of workers or ranks",
    "fork": "works with forked workers only",
    "unknown": "cannot be seen from here",
}
Effect = Literal["source", "split", "each", "drops", "holds", "unknown"]
"""What a stage does to the stream: starts it, takes a share of it, gives one for one at once, may leave samples out, or
keeps samples back, so that what comes out is not what has just come in."""

OURS = "augstream.wds.WebDataset(shards, seed=137, batch_size=...)"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a stage leaves open: which kind of thing, what exactly, and what to do about it."""

    kind: Kind
    what: str
    mend: str


@dataclass(frozen=True, slots=True)
class Trait:
    """What is known of one stage: what it is called, what it does to the stream, and what it leaves open."""

    label: str
    effect: Effect
    findings: tuple[Finding, ...] = ()


def trait(stage: Any) -> Trait:
    """What is known of `stage`, the stages inside it left aside."""
    found = _trait(stage)
    if not isinstance(stage, _CONTAINERS) and not _pickles(stage):
        mend = "use functions of a module instead of lambdas and local functions"
        finding = Finding("fork", "it cannot be pickled, as spawn and forkserver would have to", mend)
        found = Trait(found.label, found.effect, (*found.findings, finding))
    return found


def _trait(stage: Any) -> Trait:
    if isinstance(stage, Augment):
        return _of_augment(stage)
    if isinstance(stage, Batched):
        return Trait(repr(stage), "each")
    if isinstance(stage, filters.FilterFunction):
        return _of_filter(stage)
    for cls, describe in _CLASSES.items():
        if isinstance(stage, cls):
            return describe(stage)
    for function, effect in _FUNCTIONS:
        if stage is function:
            return Trait(stage.__name__, effect)
    if isinstance(stage, (list, tuple)):
        return Trait(f"a {type(stage).__name__} of {len(stage)}", "source")
    what = "whether it draws numbers, holds samples back or drops them cannot be seen"
    return Trait(name_of(stage), "unknown", (Finding("unknown", what, "look at it yourself"),))


def refusal(stage: Any) -> str | None:
    """Why `stage` cannot stand behind a source of ours, and what to use instead; None if it can."""
    found = _trait(stage)
    if isinstance(stage, filters.FilterFunction) and stage.f.__name__ == "_batched":
        return f"{found.label} asks for one sample more before it gives a batch; use augstream.wds.batched"
    if isinstance(stage, filters.FilterFunction) and stage.f is filters.slice.f:
        return f"{found.label} would cut every batch; count batches in the loop, or use with_epoch"
    if found.effect == "holds":
        shuffles = "shuffle" in found.label or "resampled" in found.label
        mend = (
            "the source itself shuffles shards and samples: pass shuffle=True, window=... to it"
            if shuffles
            else "leave it out, or put it into the stages of another pipeline"
        )
        return f"{found.label} holds samples back or reorders them, so that no place could be resumed; {mend}"
    if found.effect in {"source", "split"}:
        return f"{found.label} has no place behind a source of ours, which deals the shards out itself; leave it out"
    return None


def name_of(thing: Any) -> str:
    """What a stage or function is called."""
    return getattr(thing, "__qualname__", None) or type(thing).__name__


def _pickles(stage: Any) -> bool:
    try:
        pickle.dumps(stage)
    except Exception:  # noqa: BLE001  # pickling fails in whatever way an object likes
        return False
    return True


def _of_augment(stage: Augment) -> Trait:
    label = f"augment(seed={stage.seed}, scope={stage.scope}, name={stage.name!r})"
    if "worker" not in stage.scope:
        return Trait(label, "each")
    what = "in a plain pipeline, another number of workers or ranks gives other augmentations"
    mend = f"pass scope=('shard', 'epoch'), or read with {OURS}, whose lanes take the place of workers"
    return Trait(label, "each", (Finding("workers", what, mend),))


def arguments(stage: filters.FilterFunction) -> dict[str, Any]:
    """A filter's arguments by name, defaults included."""
    try:
        bound = inspect.signature(stage.f).bind(None, *stage.args, **stage.kw)
    except (TypeError, ValueError):
        return dict(stage.kw)
    bound.apply_defaults()
    return dict(list(bound.arguments.items())[1:])


_EFFECTS: Mapping[str, Effect] = {
    "_info": "each", "_log_keys": "each", "_decode": "each", "_map": "each", "_rename": "each", "_associate": "each",
    "_map_dict": "each", "_to_tuple": "each", "_map_tuple": "each", "_extract_keys": "each", "_rename_keys": "each",
    "_xdecode": "each", "_unlisted": "each", "_unbatched": "each", "tar_file_expander": "each",
    "group_by_keys": "each", "tarfile_samples": "each", "_select": "drops", "islice": "drops", "_batched": "holds",
}  # fmt: skip


def _of_filter(stage: filters.FilterFunction) -> Trait:
    name = stage.f.__name__
    given = arguments(stage)
    label = f"{name.lstrip('_')}({', '.join([repr(item)[:40] for item in stage.args])})"
    if not getattr(stage.f, "__module__", "").startswith(("webdataset.", "itertools")):
        what = "whether it draws numbers, holds samples back or drops them cannot be seen"
        return Trait(label, "unknown", (Finding("unknown", what, "look at it yourself"),))
    if name == "_shuffle":
        return _of_shuffle(given)
    if name == "_rsample":
        what = "it draws from Python's global generator, which is seeded differently in every run"
        mend = "select samples by a function of their key: .select(lambda sample: ...)"
        return Trait(label, "drops", (Finding("chance", what, mend),))
    if name == "resampled_":
        return Trait(label, "holds", (Finding("chance", "it is seeded from /dev/random", _RESAMPLE_MEND),))
    if name in {"_map", "_map_dict", "_map_tuple"}:
        functions = [*stage.args, *[item for key, item in stage.kw.items() if key != "handler"]]
        label = f"{name.lstrip('_')}({', '.join(map(name_of, functions))})"
        return Trait(label, "each", tuple(_unseeded(functions)))
    return Trait(label, _EFFECTS.get(name, "unknown"))


def _of_shuffle(given: Mapping[str, Any]) -> Trait:
    size, seed, rng = given["bufsize"], given["seed"], given["rng"]
    if not isinstance(size, bool) and isinstance(size, int) and size > 1:
        label = f"shuffle({size}, seed={seed!r})" if rng is None else f"shuffle({size}, rng=...)"
    else:
        return Trait(f"shuffle({size!r}), which shuffles nothing", "each")
    if rng is not None:
        what = (
            "its generator goes on from epoch to epoch where it lives on; new workers begin again, all alike"
        )
        return Trait(label, "holds", (Finding("fresh", what, _ORDER_MEND),))
    if seed is None:
        what = "it is seeded from the process's number and the clock"
        mend = f"pass seed=, for one order in all epochs; {_ORDER_MEND}"
        return Trait(label, "holds", (Finding("chance", what, mend),))
    what = "it begins with the same seed in every epoch, and in every worker: the same order each time"
    return Trait(label, "holds", (Finding("repeats", what, _ORDER_MEND),))


_ORDER_MEND = f"for an order that changes by epoch, and can be resumed, read with {OURS}"
_RESAMPLE_MEND = (
    "read with wds.ResampledShards(shards, deterministic=True, seed=137) and set its `epoch` before each epoch, or "
    f"without resampling, each sample once, with {OURS}"
)


def _unseeded(functions: Iterable[Any]) -> list[Finding]:
    """What can be said of functions that a map calls: those that look like augmentations draw numbers of their own."""
    findings = []
    for function in functions:
        is_augmentation = any(hasattr(function, name) for name in ("set_random_seed", "set_random_state"))
        is_module = isinstance(function, torch.nn.Module) or type(function).__module__.startswith(
            "torchvision."
        )
        if is_augmentation or is_module:
            what = f"{name_of(function)} draws its numbers in the order in which samples arrive, in each worker anew"
            mend = (
                "give it to augstream.wds.augment(transform, seed=137, fields=...), and compose that instead"
            )
            findings.append(Finding("chance", what, mend))
    return findings


def _of_detshuffle(stage: filters.detshuffle) -> Trait:
    what = "it counts epochs in the process where it runs: in new workers it is always epoch 0, after a restart too"
    mend = f"pass persistent_workers=True, and do not restart; {_ORDER_MEND}"
    findings = (Finding("fresh", what, mend),)
    return Trait(f"detshuffle({stage.bufsize}, seed={stage.seed!r})", "holds", findings)


def _of_resampled(stage: shardlists.ResampledShards) -> Trait:
    label = (
        f"ResampledShards({len(stage.urls)} shards, seed={stage.seed!r}, deterministic={stage.deterministic})"
    )
    if not stage.deterministic:
        what = "its seed holds the process's number, the clock and noise of the system, whatever seed= says"
        return Trait(label, "source", (Finding("chance", what, _RESAMPLE_MEND),))
    findings = []
    if not isinstance(stage.seed, (int, float)):
        what = f"its seed {stage.seed!r} goes through hash(), which is salted anew in every process"
        findings.append(Finding("chance", what, "pass an integer as seed="))
    what = "it counts epochs in the process where it runs: in new workers it is always epoch 0"
    findings.append(Finding("fresh", what, f"pass persistent_workers=True; or {_RESAMPLE_MEND}"))
    return Trait(label, "source", tuple(findings))


def _of_shard_list(stage: shardlists.SimpleShardList) -> Trait:
    label = f"SimpleShardList({len(stage.urls)} shards)"
    if stage.seed is None:
        return Trait(label, "source")
    what = f"it shuffles the shards by seed {stage.seed!r} (True stands for the clock), the same way in each epoch"
    return Trait(label, "source", (Finding("repeats", what, _ORDER_MEND),))


def _of_directory(_: Any) -> Trait:
    what = "it takes whatever shards lie there, in an order of chance, and renames them"
    return Trait("DirectoryShardList", "source", (Finding("chance", what, f"list the shards: {OURS}"),))


def _of_multi(_: Any) -> Trait:
    what = "its generator is seeded by the system when webdataset is imported"
    mend = "call set_epoch(seed) on it, in the workers; or one augstream.wds.WebDataset for each part"
    return Trait("MultiShardSample", "source", (Finding("chance", what, mend),))


def _of_mix(stage: Any) -> Trait:
    what = "it draws from Python's global generator, which is seeded differently in every run"
    mend = "mix with augstream.Mixture, or with wds.RoundRobin"
    return Trait(f"RandomMix of {len(stage.datasets)}", "holds", (Finding("chance", what, mend),))


def _of_cache(stage: Any) -> Trait:
    what = "what it kept in one epoch it gives again in the next: augmentations before it are frozen"
    return Trait(type(stage).__name__, "holds", (Finding("repeats", what, "put augment(...) behind it"),))


def _of_loader(stage: Any) -> Trait:
    lives = f", persistent_workers={stage.persistent_workers}" if stage.num_workers else ""
    return Trait(f"DataLoader(batch_size={stage.batch_size}, num_workers={stage.num_workers}{lives})", "each")


_CLASSES: dict[type, Callable[[Any], Trait]] = {
    ShardSource: lambda stage: Trait(f"augstream's shards ({len(stage.urls)})", "source"),
    DataLoader: _of_loader,
    filters.detshuffle: _of_detshuffle,
    shardlists.ResampledShards: _of_resampled,
    shardlists.SimpleShardList: _of_shard_list,
    shardlists.DirectoryShardList: _of_directory,
    shardlists.MultiShardSample: _of_multi,
    webdataset.RandomMix: _of_mix,
    webdataset.RoundRobin: lambda stage: Trait(f"RoundRobin of {len(stage.datasets)}", "each"),
    filters.Cached: _of_cache,
    filters.LMDBCached: _of_cache,
    webdataset.cache.StreamingOpen: lambda _: Trait("StreamingOpen", "each"),
    webdataset.cache.FileCache: lambda _: Trait("FileCache", "each"),
}
_CONTAINERS = (webdataset.RandomMix, webdataset.RoundRobin, DataLoader, webdataset.DataPipeline)
_FUNCTIONS: tuple[tuple[Any, Effect], ...] = (
    (shardlists.split_by_node, "split"),
    (shardlists.split_by_worker, "split"),
    (shardlists.single_node_only, "each"),
    (shardlists.non_empty, "each"),
    (webdataset.compat.check_empty, "each"),
)

from __future__ import annotations

import hashlib
import random
from statistics import fmean

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats
from strategies import file_texts, keys, seeds

from augstream.errors import RecipeError
from augstream.seeding import (
    KEY_BYTES,
    Address,
    Draws,
    check_seed,
    derive_seed,
    generator,
    permutation,
    philox_words,
    sample_key,
    seed_key,
    stream_key,
    subkey,
)

# GOLDEN VALUES. They pin every user's stream. They may change only together with seeding.SCHEME_VERSION, by a
# decision of the maintainers, as a SEED break named in the change log; never to make a test pass.

SHARD = "train-000000.tar"


def test_golden_keys() -> None:
    root = seed_key(137)
    assert seed_key(0).hex() == "03960ef85663e8671ece38b521516708"
    assert root.hex() == "60023d323936a30ffad890c55e019095"
    assert seed_key(2**64 - 1).hex() == "5e9f621356477e538d5cc01fc47d0236"
    assert stream_key(137).hex() == "5bc1c9bde76bd34a387328da956a6d52"
    assert stream_key(137, shard=SHARD, worker=0, epoch=0).hex() == "dd8d90b897869b04ef9524aef04ca497"
    assert stream_key(137, worker=0).hex() == "bb3ebb82718770585a2adb02699d8811"
    assert stream_key(137, shard="ü", epoch=2**40).hex() == "a414026ad1203a83005bd702b025a3ee"
    assert subkey(root, "a", "b").hex() == "c5861383dde443b31b8273633b94bb6f"
    assert subkey(root, 1, b"x").hex() == "c43acd6f1775a2b797691f778da9a155"
    assert sample_key(root, "n01/0007").hex() == "ce79f8de70d8e970b52bdd1a633375ee"
    assert sample_key(root, "n01/0007", 1).hex() == "0e2d78d2da42f6a7fd852a01b4f2c562"
    address = Address(137, epoch=3, worker=2, shard="train-000001.tar", sample="n01/0007")
    assert address.key().hex() == "0f15c4c860ae1b3adb090afce6997a33"


def test_golden_seeds() -> None:
    assert derive_seed(137, shard=SHARD, worker=0, epoch=0) == 332006983736528349
    assert derive_seed(0) == 1677271509132979033
    assert derive_seed(1, epoch=1) == 3553878130908856812


def test_golden_order_words() -> None:
    root = seed_key(137)
    assert philox_words(root, 3).tolist() == [1909655918040150353, 17238731039848116929, 6573654478019068447]
    assert permutation(root, 10).tolist() == [3, 0, 4, 2, 8, 5, 7, 9, 6, 1]


def test_golden_draws() -> None:
    draws = Draws()
    draws.move(seed_key(137), b"0")
    assert draws.gate == 0.11473794038329577
    assert draws.random() == 0.6016984595554326
    assert draws.getrandbits(7) == 17
    assert draws.getrandbits(100) == 299664675579088176358953421657
    assert draws.subkey().hex() == "da919d50fcc26a4099df61b21e6b571d"
    assert draws.randint(1, 6) == 6
    assert draws.uniform(-1, 1) == 0.9712180838583653
    assert draws.sample(range(100), 3) == [45, 60, 19]
    assert [draws.word() for _ in range(2)] == [15743710713970584776, 3633079584102600730]
    raw = draws.generator.bit_generator.random_raw(2)
    assert raw.tolist() == [16284522287065206320, 1674659644853949653]


# No two addresses share a key.

scopes = st.fixed_dictionaries(
    {},
    optional={"shard": file_texts(), "worker": st.integers(0, 2**40), "epoch": st.integers(0, 2**40)},
)
parts = st.lists(st.one_of(file_texts(), st.integers(-(2**63), 2**64 - 1), st.binary()), max_size=4)


@given(seeds, scopes, seeds, scopes)
@example(1, {"epoch": 0}, 0, {"epoch": 1})  # seed + epoch would make them one
@example(1, {"epoch": 0}, 1, {})  # left out is not 0
@example(1, {"worker": 2}, 1, {"epoch": 2})
@example(1, {"shard": "a", "worker": 1}, 1, {"shard": "a1"})
def test_streams_share_no_key(seed: int, scope: dict, other_seed: int, other: dict) -> None:
    same = stream_key(seed, **scope) == stream_key(other_seed, **other)
    assert same == ((seed, scope) == (other_seed, other))


@given(keys, parts, parts)
@example(b"k" * 16, ["a", "b"], ["ab"])
@example(b"k" * 16, [1], ["1"])
@example(b"k" * 16, ["1"], [b"1"])
@example(b"k" * 16, [1], [1, 0])
@example(b"k" * 16, [], [""])
@example(b"k" * 16, [2**63], [-(2**63)])
def test_places_share_no_key(key: bytes, some: list, others: list) -> None:
    typed = [(type(part), part) for part in some]
    assert (subkey(key, *some) == subkey(key, *others)) == (typed == [(type(part), part) for part in others])


@given(keys, keys, parts)
def test_a_place_depends_on_the_key_above_it(key: bytes, other: bytes, path: list) -> None:
    assert (subkey(key, *path) == subkey(other, *path)) == (key == other)
    assert len(subkey(key, *path)) == KEY_BYTES


@given(file_texts(), st.integers(0, 5), file_texts(), st.integers(0, 5))
def test_samples_and_visits_share_no_key(sample: str, visit: int, other: str, other_visit: int) -> None:
    root = seed_key(137)
    same = sample_key(root, sample, visit) == sample_key(root, other, other_visit)
    assert same == ((sample, visit) == (other, other_visit))


def test_numpy_integers_are_integers() -> None:
    assert seed_key(np.uint64(137)) == seed_key(137)
    assert subkey(seed_key(1), np.int32(7)) == subkey(seed_key(1), 7)
    assert stream_key(1, worker=np.int64(2)) == stream_key(1, worker=2)


@pytest.mark.parametrize("seed", [-1, 2**64, True, 1.0, "1", None])
def test_a_seed_that_is_none_is_refused_by_value(seed: object) -> None:
    with pytest.raises(RecipeError, match="seed must be") as caught:
        check_seed(seed)
    assert repr(seed) in str(caught.value)


@pytest.mark.parametrize("part", [True, 1.5, None, 2**64, -(2**63) - 1, ("a",)])
def test_an_address_part_of_another_type_is_refused(part: object) -> None:
    with pytest.raises(RecipeError, match="address"):
        subkey(seed_key(0), part)


# The text form.

addresses = st.builds(
    Address,
    seed=seeds,
    epoch=st.none() | st.integers(0, 2**40),
    worker=st.none() | st.integers(0, 2**40),
    shard=st.none() | file_texts(),
    sample=st.none() | file_texts(),
    visit=st.integers(0, 9),
)


@given(addresses)
@example(Address(1, shard="", sample=";seed=2"))
@example(Address(1, shard=" a b ", sample="\n=%3B"))
def test_the_text_form_parses_back(address: Address) -> None:
    text = str(address)
    assert Address.parse(text) == address
    assert Address.parse(f"  {text}\n") == address
    assert len(text.split()) == 1, "one word, fit for a log line"
    assert text.isascii()
    assert Address.parse(text).key() == address.key()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "seed",
        "seed=",
        "seed=x",
        "epoch=3",
        "seed=1;seed=1",
        "seed=1;lane=2",
        "seed=1;",
        "seed=-1",
        "seed=1;epoch",
    ],
)
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(RecipeError):
        Address.parse(text)


def test_an_address_without_a_sample_is_its_stream() -> None:
    assert Address(137, epoch=1, worker=2, shard="a").key() == stream_key(137, shard="a", worker=2, epoch=1)


# Order words.


@given(keys, st.integers(0, 200))
def test_a_permutation_sorts_the_words_and_nothing_else(key: bytes, count: int) -> None:
    words = philox_words(key, count).tolist()
    assert permutation(key, count).tolist() == sorted(range(count), key=lambda i: (words[i], i))


def test_words_begin_alike_whatever_their_number() -> None:
    assert philox_words(seed_key(1), 1000)[:10].tolist() == philox_words(seed_key(1), 10).tolist()


# Draws.


def draws_of(key: bytes, slot: bytes) -> Draws:
    draws = Draws()
    draws.move(key, slot)
    return draws


def calls() -> list:
    """What a transform may ask for, one after another."""
    return [
        Draws.random, Draws.word, Draws.subkey, lambda d: d.getrandbits(0), lambda d: d.getrandbits(64),
        lambda d: d.getrandbits(65), lambda d: d.uniform(2, 3), lambda d: d.randint(0, 9),
        lambda d: d.gauss(0, 1), lambda d: d.choice("abc"), lambda d: d.sample(range(20), 7),
        lambda d: d.generator.integers(1000), lambda d: d.generator.normal(),
    ]  # fmt: skip


@given(keys, st.lists(st.tuples(st.integers(-(2**70), 2**70), st.integers(0, 2**70)), max_size=12))
@example(b"k" * 16, [(0, 2**64 - 1), (0, 2**64 - 2), (3, 0), (0, 2)])
def test_integers_are_the_standard_librarys(key: bytes, ranges: list[tuple[int, int]]) -> None:
    ours, standard = draws_of(key, b""), draws_of(key, b"")
    for first, more in ranges:
        assert ours.randint(first, first + more) == random.Random.randint(standard, first, first + more)
    assert ours.word() == standard.word()


@pytest.mark.parametrize("ends", [(2, 1), ("a", "b")])
def test_integers_between_what_has_none_between(ends: tuple) -> None:
    with pytest.raises((ValueError, TypeError)):
        Draws().randint(*ends)


@given(
    keys,
    st.binary(max_size=5),
    st.lists(st.sampled_from(calls()), max_size=20),
    st.lists(st.sampled_from(calls())),
)
def test_a_slot_is_pure_in_key_and_slot(key: bytes, slot: bytes, before: list, after: list) -> None:
    fresh = draws_of(key, slot)
    used = draws_of(b"another key of 16", b"x")
    for call in before:
        call(used)
    used.move(key, slot)
    assert used.gate == fresh.gate
    assert [call(used) for call in after] == [call(fresh) for call in after]


@given(keys, st.lists(st.sampled_from(calls()), min_size=1, max_size=5))
def test_the_gate_is_apart_from_the_parameters(key: bytes, asked: list) -> None:
    gated, ungated = draws_of(key, b"0"), draws_of(key, b"0")
    assert gated.gate == gated.gate
    assert [call(gated) for call in asked] == [call(ungated) for call in asked]


def test_no_word_comes_twice_over_slots_and_blocks() -> None:
    words = [
        draws.word()
        for slot in range(50)
        for draws in [draws_of(seed_key(1), b"%d" % slot)]
        for _ in range(40)
    ]
    assert len(set(words)) == len(words)


def test_global_generators_are_unread_and_untouched() -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002  # the global generator is what must not be touched
    before = random.getstate(), repr(np.random.get_state())  # noqa: NPY002
    first = [call(draws_of(seed_key(1), b"0")) for call in calls()]
    assert (random.getstate(), repr(np.random.get_state())) == before  # noqa: NPY002
    random.seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert [call(draws_of(seed_key(1), b"0")) for call in calls()] == first


def test_there_is_no_state_to_carry() -> None:
    draws = draws_of(seed_key(1), b"0")
    following = draws_of(seed_key(1), b"0")
    draws.seed(99)
    assert draws.random() == following.random()
    with pytest.raises(RecipeError, match="address"):
        draws.getstate()
    with pytest.raises(RecipeError, match="address"):
        draws.setstate(())


def test_generator_follows_from_the_key() -> None:
    assert (
        generator(seed_key(1)).bit_generator.random_raw(4).tolist() == philox_words(seed_key(1), 4).tolist()
    )


# Statistics: the seeds are fixed, so these cannot fail by chance, only by a change.


def uniform_numbers() -> dict[str, list[float]]:
    key = seed_key(2024)
    slots = [draws_of(sample_key(key, str(i)), b"0") for i in range(4000)]
    one = draws_of(key, b"1")
    return {
        "gates of many samples": [draws.gate for draws in slots],
        "first parameters of many samples": [draws.random() for draws in slots],
        "many numbers of one slot": [one.random() for _ in range(4000)],
        "gates of many slots": [draws_of(key, b"%d" % i).gate for i in range(4000)],
        "many epochs": [derive_seed(1, shard="a", worker=0, epoch=e) / 2**64 for e in range(4000)],
    }


@pytest.mark.parametrize("what", uniform_numbers())
def test_numbers_are_uniform(what: str) -> None:
    numbers = uniform_numbers()[what]
    assert stats.kstest(numbers, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.05


def test_slots_and_their_gates_are_independent() -> None:
    key = seed_key(7)
    rows = []
    for i in range(4000):
        sample = sample_key(key, str(i))
        first, second = draws_of(sample, b"0"), draws_of(sample, b"1")
        rows.append([first.gate, first.random(), second.gate, second.random(), first.generator.random()])
    correlations = np.corrcoef(np.array(rows).T) - np.eye(5)
    assert np.abs(correlations).max() < 0.05


def test_small_integers_and_permutations_are_even() -> None:
    draws = draws_of(seed_key(3), b"0")
    faces = np.bincount([draws.randint(1, 6) for _ in range(6000)], minlength=7)[1:]
    assert stats.chisquare(faces).pvalue > 0.001
    orders: dict[tuple[int, ...], int] = {}
    for i in range(6000):
        order = tuple(permutation(subkey(seed_key(3), i), 3).tolist())
        orders[order] = orders.get(order, 0) + 1
    assert len(orders) == 6
    assert stats.chisquare(list(orders.values())).pvalue > 0.001


def test_keys_look_random_bit_by_bit() -> None:
    bits = np.unpackbits(np.frombuffer(b"".join(stream_key(1, epoch=e) for e in range(2000)), dtype=np.uint8))
    ones = bits.reshape(2000, 128).mean(axis=0)
    assert np.abs(ones - 0.5).max() < 0.06
    assert abs(fmean(ones) - 0.5) < 0.005


def test_the_packing_is_the_documented_one() -> None:
    person = b"augstream/1"
    root = hashlib.blake2b((137).to_bytes(8, "little"), digest_size=16, person=person).digest()
    epoch = b"E" + b"i" + (5).to_bytes(16, "little", signed=True)
    shard = b"H" + b"s" + (1).to_bytes(8, "little") + b"a"
    expected = hashlib.blake2b(shard + epoch, key=root, digest_size=16, person=person).digest()
    assert stream_key(137, shard="a", epoch=5) == expected

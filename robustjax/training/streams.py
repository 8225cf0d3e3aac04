"""Which examples a step gets: batches drawn from streams, that are cycled in a new order each time round."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from robustjax.methods.base import Stream

_ROUNDS = 4


class Drawn(NamedTuple):
    """Positions in the pool, int32 [B], and float32 [B] the mask: 0 for padding, which repeats a cycle's first."""

    index: jax.Array  # type: ignore[assignment]  # a tuple's method of this name is not missed
    mask: jax.Array


def draw(stream: Stream, n: jax.Array, batch_size: int, key: jax.Array | None = None) -> Drawn:
    """Batch number `n` (int32 scalar) of a stream, from 0.

    The first time round the stream's own order holds; each further time a random one of its own.

    Args:
      stream: what is drawn from; where it is empty, every batch is padding.
      n: how many batches have been drawn before.
      batch_size: B; the last batch of a cycle is padded.
      key: of the orders after the first; None for a stream that is drawn once.
    """
    # Padding of an empty stream is of all examples: one alone, again and again, would be most of a batch's statistics.
    size = jnp.where(stream.size > 0, stream.size, len(stream.order))
    batches = (size + batch_size - 1) // batch_size
    slots = (n % batches) * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
    place = slots % size
    if key is not None:
        cycle = n // batches
        place = jnp.where(cycle > 0, shuffled_place(jax.random.fold_in(key, cycle), place, size), place)
    return Drawn(stream.order[place], (slots < stream.size).astype(jnp.float32))


def shuffled_place(key: jax.Array, place: jax.Array, size: jax.Array) -> jax.Array:
    """Where each `place` (int32, in 0 … size−1) comes in a random order of `size` (int32 scalar): a bijection.

    Evaluated for the places asked for alone, since neither is `size` known when the program is compiled nor should a
    step sort the whole training set. A Feistel network over pairs (l, r) with l, r < s = ⌈√size⌉ permutes 0 … s²−1;
    what it throws beyond `size` goes through it again until it is back, which keeps it a bijection (cycle walking) and
    is rarely needed, since s² exceeds `size` by about 2s at most.

    Examples:
      >>> order = shuffled_place(jax.random.key(0), jnp.arange(7), jnp.int32(7))
      >>> sorted(order.tolist())
      [0, 1, 2, 3, 4, 5, 6]
    """
    side = jnp.ceil(jnp.sqrt(size.astype(jnp.float32))).astype(jnp.uint32)
    side += (side * side < size.astype(jnp.uint32)).astype(jnp.uint32)  # float32 may round the root down
    words = jax.random.bits(key, (2 * _ROUNDS,), jnp.uint32)
    limit = size.astype(jnp.uint32)

    def scramble(x: jax.Array) -> jax.Array:
        left, right = x // side, x % side
        for round_ in range(_ROUNDS):
            left = (left + _mix(right ^ words[2 * round_]) % side) % side
            right = (right + _mix(left ^ words[2 * round_ + 1]) % side) % side
        return left * side + right

    def walk(x: jax.Array) -> jax.Array:
        return jnp.where(x >= limit, scramble(x), x)

    found = jax.lax.while_loop(lambda x: jnp.any(x >= limit), walk, scramble(place.astype(jnp.uint32)))
    return found.astype(jnp.int32)


def _mix(x: jax.Array) -> jax.Array:
    """A well-mixing bijection of 32-bit words (the finaliser of MurmurHash3)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)

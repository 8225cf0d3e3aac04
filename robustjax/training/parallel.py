"""Any number of devices and seeds: the one place that knows how many there are.

A program is written once, for one seed and the global batch, as `program(state, own, shared) -> …`: `state` is what it
replaces (its buffers are donated), `own` what else belongs to the seed (labels, keys, plans), `shared` what all seeds
have in common (images, the epoch number). `compile_program` turns it into an executable for a layout:

- one seed, one device: the program itself under `jax.jit`;
- `data`: the same program under `jax.jit` over a ("data",) mesh. Batches are sharded, parameters replicated, memories
  of every example (`PerExample`) sharded by rows. XLA places the collectives, so batch statistics, virtual steps and
  meta-gradients are the same mathematics on any number of devices;
- several seeds, one device: `jax.vmap` over the seeds;
- `seeds`: `jax.pmap` over the devices of a `jax.vmap` over each device's seeds. No communication.

Since JAX 0.8 `jax.pmap` is itself `jit` over a mesh with one axis. It is kept for independent replicas because that is
what it says best: one seed a device. Nothing inside a program names its axis.
"""

import difflib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from robustjax.backend import compiler_options, memory
from robustjax.methods.base import PerExample

MODES = ("auto", "single", "data", "seeds")


class Layout(NamedTuple):
    """How seeds and devices are arranged.

    Attributes:
      mode: "single" (one device), "data" or "seeds".
      seeds: K, how many seeds train at once.
      devices: the devices in use.
      mesh: for "data", the mesh over them; else None.
    """

    mode: str
    seeds: int
    devices: tuple[jax.Device, ...]
    mesh: jax.sharding.Mesh | None = None

    @property
    def lead(self) -> tuple[int, ...]:
        """Leading axes of everything that belongs to a seed: (), (K,) or (devices, K / devices)."""
        if self.mode == "seeds":
            return (len(self.devices), self.seeds // len(self.devices))
        return () if self.seeds == 1 else (self.seeds,)

    def describe(self) -> str:
        """One phrase for the user."""
        kind = f"{len(self.devices)} {self.devices[0].platform} device{'s' if len(self.devices) > 1 else ''}"
        if self.mode == "data":
            return f"batch split over {kind}"
        return f"{kind}, {self.seeds} seed{'s' if self.seeds > 1 else ''}" + (" at once" if self.seeds > 1 else "")


def make_layout(
    mode: str = "auto",
    *,
    seeds: int = 1,
    batch_size: int,
    devices: Sequence[jax.Device] | None = None,
) -> Layout:
    """Arrange `seeds` seeds on the devices at hand.

    Args:
      mode: "single"; "data", one seed with its batch split over all devices; "seeds", independent seeds spread over
        the devices; "auto": data for one seed where the batch divides, seeds for several, single on one device.
      seeds: how many seeds train at once.
      batch_size: global batch size.
      devices: the devices to use; all of the default backend if None.

    Raises:
      ValueError: for an unknown mode, several seeds with "data", or a batch that the devices do not divide.
    """
    available = tuple(jax.devices() if devices is None else devices)
    if mode not in MODES:
        close = difflib.get_close_matches(mode, MODES, 1)
        raise ValueError(f"parallel={mode!r} is none of {', '.join(MODES)}" + (f"; {close[0]}?" if close else "."))
    if seeds < 1:
        raise ValueError(f"seeds={seeds} must be at least 1.")
    if mode == "auto":
        if len(available) == 1:
            mode = "single"
        elif seeds > 1:
            mode = "seeds"
        else:
            mode = "data" if batch_size % len(available) == 0 else "single"
    if mode == "data":
        if seeds > 1:
            raise ValueError(f"parallel='data' trains one seed at a time, got seeds={seeds}; use parallel='seeds'.")
        count = len(available)
        if batch_size % count:
            below, above = batch_size // count * count, -(-batch_size // count) * count
            nearest = " or ".join(str(size) for size in (below, above) if size)
            raise ValueError(
                f"batch_size={batch_size} does not divide over {count} devices; the nearest that do are {nearest}."
            )
        mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=available)
        return Layout("data", 1, available, mesh)
    if mode == "seeds" and seeds > 1:
        count = max(n for n in range(1, len(available) + 1) if seeds % n == 0)
        if count > 1:
            return Layout("seeds", seeds, available[:count])
    return Layout("single", seeds, available[:1])


def describe_idle(layout: Layout) -> str:
    """A sentence on devices that a layout leaves idle, and what would use them; "" for none."""
    there = jax.device_count()
    if len(layout.devices) == there:
        return ""
    rule = (
        "one seed's batch is split where they divide --batch-size"
        if layout.seeds == 1
        else "seeds are spread over the largest number of devices that divides --seeds"
    )
    return f"{there - len(layout.devices)} of {there} devices are idle: {rule}."


def split_batch(layout: Layout, batch: Any) -> Any:
    """Within a program: shard the leading axis of every leaf over the data mesh (elsewhere: nothing).

    A stream's own batch size need not divide over the devices; such a batch stays whole on each.
    """
    if layout.mesh is None or any(leaf.shape[0] % len(layout.devices) for leaf in jax.tree.leaves(batch)):
        return batch
    return jax.lax.with_sharding_constraint(batch, NamedSharding(layout.mesh, PartitionSpec("data")))


def replicate(layout: Layout, tree: Any) -> Any:
    """Within a program: keep every leaf whole on each device of the data mesh (elsewhere: nothing)."""
    if layout.mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(layout.mesh, PartitionSpec()))


def keep_state(layout: Layout, tree: Any) -> Any:
    """Within a program: the layout of a state, per-example memories by rows, all else whole (elsewhere: nothing)."""
    if layout.mesh is None:
        return tree
    return jax.tree.map(jax.lax.with_sharding_constraint, tree, _state_shardings(layout, tree))


def _sharding(layout: Layout) -> Any:
    if layout.mesh is not None:
        return NamedSharding(layout.mesh, PartitionSpec())
    return jax.sharding.SingleDeviceSharding(layout.devices[0])


def _state_shardings(layout: Layout, tree: Any) -> Any:
    """A pytree like `tree`, of the sharding of each leaf of one seed."""
    whole, mesh = _sharding(layout), layout.mesh

    def place(node: Any) -> Any:
        rows = node.rows.shape[0] if isinstance(node, PerExample) else 0  # of no examples there is nothing to spread
        if mesh is not None and rows and rows % len(layout.devices) == 0:
            by_rows: Any = NamedSharding(mesh, PartitionSpec("data"))
            return PerExample(by_rows)
        return jax.tree.map(lambda leaf: whole, node)

    return jax.tree.map(place, tree, is_leaf=lambda node: isinstance(node, PerExample))


def place_shared(layout: Layout, tree: Any) -> Any:
    """Put what all seeds share onto the devices."""
    if layout.mode == "seeds":  # pmap broadcasts it itself; keep it whole on each device
        mesh = jax.make_mesh((len(layout.devices),), ("seeds",), axis_types=(AxisType.Auto,), devices=layout.devices)
        return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
    return jax.device_put(tree, _sharding(layout))


def place_seeds(layout: Layout, trees: Sequence[Any]) -> Any:
    """Stack one pytree a seed along the layout's leading axes and put it onto the devices."""
    if len(trees) != layout.seeds:
        raise ValueError(f"{len(trees)} trees for {layout.seeds} seeds.")
    if not layout.lead:
        return jax.device_put(trees[0], _state_shardings(layout, trees[0]))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves).reshape(layout.lead + jnp.shape(leaves[0])), *trees)
    if layout.mode == "seeds":
        mesh = jax.make_mesh((len(layout.devices),), ("seeds",), axis_types=(AxisType.Auto,), devices=layout.devices)
        return jax.device_put(stacked, NamedSharding(mesh, PartitionSpec("seeds")))
    return jax.device_put(stacked, _sharding(layout))


def by_seed(layout: Layout, tree: Any) -> list[Any]:
    """The inverse of `place_seeds`, as NumPy arrays on the host: one pytree a seed."""
    host = jax.tree.map(np.asarray, jax.device_get(tree))
    if not layout.lead:
        return [host]
    flat = jax.tree.map(lambda leaf: leaf.reshape((layout.seeds, *leaf.shape[len(layout.lead) :])), host)
    return [jax.tree.map(lambda leaf, k=k: leaf[k], flat) for k in range(layout.seeds)]


def lift(layout: Layout, program: Callable[[Any, Any, Any], Any]) -> jax.stages.Wrapped:
    """`program` over the layout's seeds, as a jit-compiled function that donates its first argument."""
    if layout.mode == "seeds":
        return jax.pmap(
            jax.vmap(program, in_axes=(0, 0, None)), in_axes=(0, 0, None), devices=layout.devices, donate_argnums=0
        )
    mapped = jax.vmap(program, in_axes=(0, 0, None)) if layout.seeds > 1 else program
    return jax.jit(mapped, donate_argnums=0)


def compile_program(layout: Layout, program: Callable[[Any, Any, Any], Any], *args: Any) -> Callable[..., Any]:
    """An executable of `program(state, own, shared)` for arguments like `args`; `state` is donated.

    Raises:
      MemoryError: if what it computes in between alone takes more than the devices have. XLA knows how much that is;
        nobody does before it is compiled.
    """
    compiled = lift(layout, program).lower(*args).compile(compiler_options=compiler_options())
    needed = getattr(compiled.memory_analysis(), "temp_size_in_bytes", 0)  # not every backend tells
    if needed > (there := memory()):
        raise MemoryError(
            f"What a step computes in between takes {needed / 1e9:.3g} GB of {there / 1e9:.3g} GB; a smaller "
            "batch_size or a smaller model is accepted."
        )
    return compiled

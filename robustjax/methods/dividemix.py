"""DivideMix: noisy labels as semi-supervised learning (Li et al., ICLR 2020).

After a warm-up on all given labels, every epoch (Algorithm 1):

1. two Gaussians are fitted to each network's losses of the whole training set; w_i is the probability that example i
   belongs to the smaller ones, so that its label is right (co-divide);
2. each network in turn trains on the division that the *other* one made: examples with w_i > τ keep their labels, the
   others lose theirs. Given labels are refined by the network's own predictions, w y + (1 − w) p, missing ones guessed
   by both networks, all of them sharpened (co-refinement, co-guessing);
3. labelled and unlabelled examples are mixed (MixMatch), and L = L_x + λ_u L_u + L_reg: cross entropy on the labelled
   part, squared error on the unlabelled one, and KL(uniform ‖ mean prediction).

As in the authors' code a network guesses in train mode and its peer in evaluation mode, λ_u rises linearly, and the
share of the mix is one number a batch. Batch statistics are those that the pass on the mixed batch leaves; in the
authors' code the guessing passes move them too.

For long tails two things change. A frequent class's losses are small whether its labels are right or not, so ROLT+ (Wei
et al., 2021) divides each class by itself, by how far its examples' features are from the class's prototype
(`mixtures.prototype_clean_probability`). Balanced softmax (Ren et al., 2020) in place of cross entropy has the given
labels' frequencies in the loss and not in the network, as Dynamic Loss compares with; guesses are the network's own.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import findings, losses, margins, mixtures, targets
from robustjax._checks import check_choice
from robustjax.methods import base, peers
from robustjax.mixup import apply_mix, draw_mix

LOSSES = ("cross_entropy", "balanced_softmax")
DIVISIONS = ("losses", "prototypes")

_Logits = Callable[[Sequence[jax.Array]], list[jax.Array]]


class DivideMixState(NamedTuple):
    """The two networks; of each the probability that a label is right, [N], 0 until it is known; class counts [C].

    The counts are of the given labels, and {} where nothing asks for them.
    """

    learners: tuple[base.Learner, ...]
    clean: tuple[base.PerExample, ...]
    class_counts: Any


def dividemix(
    task: base.Task,
    *,
    warmup_epochs: int = 10,
    threshold: float = 0.5,
    temperature: float = 0.5,
    alpha: float = 4.0,
    unlabeled_strength: float = 25.0,
    ramp_epochs: float = 16.0,
    confidence_penalty: bool = False,
    labeled_loss: str = "cross_entropy",
    division: str = "losses",
    reweight_from: float = 1.0,
    warmup_batch_factor: int = 1,
) -> base.Method:
    """DivideMix (Li et al., ICLR 2020): two networks divide the data for each other, and MixMatch.

    Args:
      warmup_epochs: epochs, at least 0, on all given labels before the data are divided.
      threshold: τ in (0, 1), above which the probability that a label is right keeps it.
      temperature: T of the sharpening of refined and guessed labels, positive.
      alpha: α of MixMatch's Beta(α, α), positive.
      unlabeled_strength: λ_u, the weight of the squared error on guessed labels, at least 0.
      ramp_epochs: epochs over which that weight rises linearly, positive.
      confidence_penalty: subtract the entropy of the predictions in the warm-up, for asymmetric noise.
      labeled_loss: "cross_entropy", or "balanced_softmax" for classes that are not equally frequent.
      division: by "losses", of all classes together, or by distances to "prototypes", each class by itself (ROLT+).
      reweight_from: share of the run, in [0, 1], after which the labelled loss weighs classes by the effective number
        of their given labels (DRW, beta 0.9999), an option of ROLT+'s code; 1 is never.
      warmup_batch_factor: how many times as large batches are in the warm-up, in [1, 100]; 2 in the code.

    Raises:
      ValueError: an option out of its range, by name.
    """
    check(task, warmup_epochs, threshold, temperature, alpha, unlabeled_strength, ramp_epochs, warmup_batch_factor)
    base.check_options(("reweight_from", reweight_from, 0 <= reweight_from <= 1, "in [0, 1]"))
    check_choice("labeled_loss", labeled_loss, LOSSES)
    check_choice("division", division, DIVISIONS)
    balanced = labeled_loss == "balanced_softmax"
    reweight_epoch = round(reweight_from * task.epochs)

    def init(key: jax.Array, labels: np.ndarray) -> DivideMixState:
        learners = tuple(base.init_learner(own, task) for own in jax.random.split(key))
        counts: Any = {}
        if balanced or reweight_from < 1:
            # Of a class without a given label too something may be guessed.
            counts = jnp.maximum(jnp.asarray(base.class_counts(labels, task.num_classes), jnp.float32), 1)
        return DivideMixState(learners, tuple(base.per_example(len(labels)) for _ in learners), counts)

    def given_loss(state: DivideMixState, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """The loss [B] on labels, given or refined."""
        if balanced:
            return losses.balanced_softmax(logits, labels, class_counts=state.class_counts)
        return losses.cross_entropy(logits, labels)

    def look(state: DivideMixState, inputs: jax.Array) -> tuple[jax.Array, ...]:
        if division == "losses":
            return peers.each(task, state.learners, inputs)
        seen = task.plain(inputs)
        return tuple(task.model.features(each.params, each.stats, seen)[0] for each in state.learners)

    def trusted(state: DivideMixState, seen: jax.Array, labels: jax.Array) -> jax.Array:
        """The probability [N] that a label is right, from what one network's `look` has seen."""
        if division == "losses":
            return mixtures.clean_probability(given_loss(state, seen, labels))
        return mixtures.prototype_clean_probability(seen, labels, task.num_classes)

    def predict(state: DivideMixState, inputs: jax.Array) -> jax.Array:
        return peers.ensemble(task, state.learners, inputs)

    def divide(
        state: DivideMixState, survey: base.Survey, clock: base.Clock, key: jax.Array
    ) -> tuple[DivideMixState, base.Plan]:
        """Co-divide: a mixture a network, and what each network is to train on by the other's."""
        clean = [trusted(state, seen, survey.labels) for seen in survey.seen]
        plan: base.Plan = {}
        for which, own in enumerate(jax.random.split(key)):
            kept = at_least_one(clean[1 - which] > threshold)
            labeled_key, unlabeled_key = jax.random.split(own)
            plan[f"labeled_{which}"] = base.shuffled(labeled_key, kept)
            plan[f"unlabeled_{which}"] = base.shuffled(unlabeled_key, ~kept)
        return state._replace(clean=tuple(map(base.remembered, clean))), plan

    def warmup_loss(state: DivideMixState, logits: jax.Array, labels: jax.Array) -> jax.Array:
        values = given_loss(state, logits, labels)
        return values + targets.negative_entropy(logits) if confidence_penalty else values

    def mixmatch_step(which: int) -> base.StepFunction:
        def mixmatch(
            state: DivideMixState, batches: base.Batches, clock: base.Clock, key: jax.Array
        ) -> tuple[DivideMixState, base.Metrics]:
            labeled, unlabeled = batches[f"labeled_{which}"], batches[f"unlabeled_{which}"]
            learner, peer = state.learners[which], state.learners[1 - which]
            *view_keys, guess_key, mix_key, model_key = jax.random.split(key, 7)
            x = [task.strong(view_key, labeled.inputs) for view_key in view_keys[:2]]
            u = [task.strong(view_key, unlabeled.inputs) for view_key in view_keys[2:]]

            own, others = predictors(task, learner, peer, guess_key)
            trust = base.recall(state.clean[1 - which], labeled.index)
            own_logits = own(x)
            refined = targets.corefined_labels(trust, labeled.labels, softmax(own_logits), temperature)
            guessed = targets.coguessed_labels(softmax(own(u) + others(u)), temperature)

            mask = jnp.concatenate([labeled.mask] * 2 + [unlabeled.mask] * 2)
            mix = draw_mix(mix_key, len(mask), alpha, keep_larger=True)
            inputs = apply_mix(jnp.concatenate(x + u), mix)
            wanted = apply_mix(jnp.concatenate([refined] * 2 + [guessed] * 2), mix)
            split = 2 * len(labeled.labels)
            ramp = jnp.clip(clock.stage_progress / ramp_epochs, 0, 1)
            labeled_share = mask[:split]
            if reweight_from < 1:
                class_weights = margins.deferred_weights(
                    clock.epoch, state.class_counts, start_epoch=reweight_epoch, beta=0.9999
                )
                labeled_share *= jnp.tile(margins.example_weights(labeled.labels, class_weights), 2)

            def attempt(params: Any) -> base.Attempt:
                logits, stats = base.train_apply(task, learner, params, inputs, model_key)
                values = given_loss(state, logits[:split], wanted[:split])
                errors = targets.squared_error(logits[split:], wanted[split:])
                penalty = jnp.full(labeled.mask.shape, targets.prior_penalty(logits, mask))
                terms = {
                    "labeled_loss": base.Term(values, labeled_share),
                    "unlabeled_loss": base.Term(errors, mask[split:], unlabeled_strength * ramp),
                    "prior_penalty": base.Term(penalty, labeled.mask),
                }
                return base.Attempt(terms, own_logits[0], stats)

            learner, metrics, _ = base.descend(task, learner, labeled, clock, attempt)
            return state._replace(learners=peers.replaced(state.learners, which, learner)), metrics

        return mixmatch

    warmup = functools.partial(warmup_step, task, warmup_loss)
    stages = [
        base.Stage(warmup_epochs, passes(warmup, all=warmup_batch_factor * task.batch_size)),
        base.Stage(
            task.epochs - warmup_epochs,
            passes(mixmatch_step, "labeled", "unlabeled"),
            divide,
            look=look,
            when="epoch",
        ),
    ]
    return base.method(init, stages, predict, inspect)


# --- What networks that divide the data for each other share --------------------------------------------------------
# Their states have at least `learners` and `clean`, as `DivideMixState` has them.


def check(
    task: base.Task,
    warmup_epochs: int,
    threshold: float,
    temperature: float,
    alpha: float,
    unlabeled_strength: float,
    ramp_epochs: float,
    warmup_batch_factor: int,
) -> None:
    """Raises ValueError for an option of `dividemix` by one of these names that is out of its range."""
    base.check_warmup(task, warmup_epochs)
    base.check_mixup(task, alpha, "alpha", needed=True)
    base.check_options(
        ("threshold", threshold, 0 < threshold < 1, "in (0, 1)"),
        ("temperature", temperature, temperature > 0, "positive"),
        ("alpha", alpha, alpha > 0, "positive"),
        ("unlabeled_strength", unlabeled_strength, unlabeled_strength >= 0, "at least 0"),
        ("ramp_epochs", ramp_epochs, ramp_epochs > 0, "positive"),
        ("warmup_batch_factor", warmup_batch_factor, 1 <= warmup_batch_factor <= 100, "in [1, 100]"),
    )


def warmup_step(
    task: base.Task, loss: Callable[[Any, jax.Array, jax.Array], jax.Array], which: int
) -> base.StepFunction:
    """A step of network `which` on all given labels, by (state, logits [B, C], labels [B]) -> loss [B]."""

    def warmup(state: Any, batches: base.Batches, clock: base.Clock, key: jax.Array) -> tuple[Any, base.Metrics]:
        batch = batches[f"all_{which}"]
        view_key, model_key = jax.random.split(key)

        def terms(logits: jax.Array) -> dict[str, base.Term]:
            return {"loss": base.Term(loss(state, logits, batch.labels), batch.mask)}

        inputs = task.strong(view_key, batch.inputs)
        attempt = base.attempt_on(task, state.learners[which], inputs, model_key, terms)
        learner, metrics, _ = base.descend(task, state.learners[which], batch, clock, attempt)
        return state._replace(learners=peers.replaced(state.learners, which, learner)), metrics

    return warmup


def at_least_one(kept: jax.Array) -> jax.Array:
    """The mask `kept` [N], or all where it is empty: an epoch needs labels."""
    return kept | ~jnp.any(kept)


def predictors(task: base.Task, learner: base.Learner, peer: base.Learner, key: jax.Array) -> tuple[_Logits, _Logits]:
    """How a network, in train mode, and its peer, in evaluation mode, guess: views -> logits [B, C] of each."""

    def own(views: Sequence[jax.Array]) -> list[jax.Array]:
        return [base.train_apply(task, learner, learner.params, view, key)[0] for view in views]

    def others(views: Sequence[jax.Array]) -> list[jax.Array]:
        return [task.model.apply(peer.params, peer.stats, view, train=False)[0] for view in views]

    return own, others


def softmax(logits: Sequence[jax.Array]) -> jax.Array:
    """Probabilities [V, B, C] of logits of several views."""
    return jax.nn.softmax(jnp.stack(list(logits)))


def inspect(state: Any, survey: base.Survey) -> findings.Findings:
    """What the division says, unknown until there is one."""
    one, other = (base.recall_all(each, len(survey.labels)) for each in state.clean)
    clean = (one + other) / 2
    known = jnp.any(clean > 0)
    believed = targets.corefined_labels(clean, survey.labels, jax.nn.softmax(survey.seen)[None], 1.0)
    return {
        "noise_score": findings.NoiseScore(findings.when_known(known, 1 - clean)),
        "correction": findings.LabelDistribution(findings.when_known(known, believed)),
    }


def passes(make: Callable[[int], base.StepFunction], *streams: str, **sized: int | None) -> tuple[base.Pass, ...]:
    """One pass for each network, over its own streams: of "labeled", "labeled_0" and "labeled_1".

    Those in `sized` have batches of a size of their own.
    """
    sizes = dict.fromkeys(streams) | sized
    return tuple(
        (base.Step(make(which), tuple(base.Draw(f"{name}_{which}", batch_size=size) for name, size in sizes.items())),)
        for which in range(2)
    )


def _entry(name: str, make: base.Factory, paper: str, *aliases: str, family: str = "") -> base.Entry:
    return base.Entry(
        name, make, paper, aliases, family=family, networks=2, memory="2", cost=6.0,
        small={"warmup_epochs": 1, "ramp_epochs": 2.0, "unlabeled_strength": 1.0},
    )  # fmt: skip


ENTRIES = (
    _entry("dividemix", dividemix, "Li et al., ICLR 2020", "divide_mix"),
    _entry(
        "dividemix_bs", functools.partial(dividemix, labeled_loss="balanced_softmax"), "Li et al., ICLR 2020",
        "dividemix_balanced_softmax", family="dividemix",
    ),
    _entry("rolt_plus", functools.partial(dividemix, division="prototypes"), "Wei et al., arXiv 2021"),
)  # fmt: skip

"""Empirical risk minimisation: every method that is one loss on one stream."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import losses, margins, schedules
from robustjax._checks import check_choice, load_array
from robustjax._probabilities import check_transition
from robustjax.margins import example_weights
from robustjax.methods import base
from robustjax.methods.composable import composable
from robustjax.mixup import apply_mix, draw_mix

Constants = dict[str, Any]


class ErmState(NamedTuple):
    """The network, and the constants that the loss takes from this seed's labels (class counts, margins …)."""

    learner: base.Learner
    constants: dict[str, jax.Array]


def erm(
    task: base.Task,
    loss: Callable[..., jax.Array],
    *,
    constants: Callable[[np.ndarray], Constants] = lambda labels: {},
    weights: Callable[..., jax.Array] | None = None,
    transform: Callable[[jax.Array], jax.Array] = lambda logits: logits,
    regularizer: Callable[[jax.Array], jax.Array] | None = None,
    strength: Callable[[Any], Any] = lambda progress: 1.0,
    views: int = 1,
    mixup: float = 0.0,
    of_the_batch: bool = False,
) -> base.Method:
    """Minimise the mean of a per-example loss on the strong view, plus that of a regulariser if there is one.

    Args:
      task: what is to be learned, and with what.
      loss: (logits [B, C], labels [B], **constants) -> [B]; with several views, a tuple of logits.
      constants: given labels int [N], on the host -> keyword arguments of `loss` that depend on them.
      weights: (labels [B], **constants) -> [B]: the mean of the loss is weighted by them. None weighs all alike.
      transform: logits [B, C] -> [B, C]: what both loss and regulariser see; evaluation does not.
      regularizer: (transformed logits [..., C]) -> [...]; averaged over the views.
      strength: progress in epochs -> weight of the regulariser.
      views: strong views of each example, which go through the network as one batch.
      mixup: α of mixup, which mixes the inputs of a step and gives the loss label distributions; 0 for none.
      of_the_batch: whether the loss mixes examples, so that it needs the batch's mask [B], as keyword `mask`.

    Raises:
      ValueError: for a loss that does not give one value an example, or where its hyperparameters are out of range:
        it is rehearsed on three examples.
    """

    def init(key: jax.Array, labels: np.ndarray) -> ErmState:
        return ErmState(base.init_learner(key, task), jax.tree.map(jnp.asarray, constants(labels)))

    def penalised(
        logits: jax.Array, labels: jax.Array, mask: jax.Array, fixed: Constants
    ) -> tuple[jax.Array, jax.Array | None]:
        """Loss and unweighted regulariser, [B] each, of logits [views · B, C]."""
        seen = transform(logits).reshape(views, -1, task.num_classes)
        more = {"mask": mask} if of_the_batch else {}
        values = loss(seen[0] if views == 1 else tuple(seen), labels, **fixed, **more)
        if jnp.shape(values) != labels.shape[:1]:
            raise ValueError(
                f"loss must return one value an example, shape {labels.shape[:1]} for {len(labels)} of them, "
                f"got shape {jnp.shape(values)}; the mean over the batch is taken by the method."
            )
        return values, None if regularizer is None else regularizer(seen).mean(0)

    def step(
        state: ErmState, batches: base.Batches, clock: base.Clock, key: jax.Array
    ) -> tuple[ErmState, base.Metrics]:
        batch, learner = batches["train"], state.learner
        *view_keys, model_key = jax.random.split(key, views + 1)
        seen, labels = [task.strong(view_key, batch.inputs) for view_key in view_keys], batch.labels
        if mixup:
            # Below views + 1 `fold_in` gives the very keys that `split` has given.
            mix = draw_mix(jax.random.fold_in(key, views + 1), len(labels), mixup)
            seen = [apply_mix(view, mix) for view in seen]
            labels = apply_mix(jax.nn.one_hot(labels, task.num_classes), mix)
        inputs = jnp.concatenate(seen)
        share = batch.mask if weights is None else batch.mask * weights(labels, **state.constants)

        def attempt(params: Any) -> base.Attempt:
            logits, stats = base.train_apply(task, learner, params, inputs, model_key)
            values, extra = penalised(logits, labels, batch.mask, state.constants)
            terms = {"unregularized_loss": base.Term(values, share)}
            if extra is not None:
                terms["regularizer"] = base.Term(extra, batch.mask, jnp.asarray(strength(clock.progress)))
            return base.Attempt(terms, logits[: len(batch.labels)], stats)

        learner, metrics, _ = base.descend(task, learner, batch, clock, attempt)
        return state._replace(learner=learner), metrics

    def rehearse() -> None:
        fixed = constants(np.arange(task.num_classes))
        labels = jnp.full((3, task.num_classes), 1 / task.num_classes) if mixup else jnp.zeros(3, jnp.int32)
        try:
            logits = jnp.zeros((views * 3, task.num_classes))
            jax.eval_shape(lambda logits: penalised(logits, labels, jnp.ones(3), fixed), logits)
        except Exception as error:
            if mixup and not isinstance(error, ValueError):
                told = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
                raise ValueError(
                    f"mixup={mixup} gives the loss label distributions [B, C] in place of classes int [B], which this "
                    f"one does not take: {told}"
                ) from error
            raise
        strength(0.0)

    base.check_mixup(task, mixup)
    rehearse()

    def predict(state: ErmState, inputs: jax.Array) -> jax.Array:
        return base.predict_with(task, state.learner, inputs)

    return base.method(init, [base.Stage(task.epochs, base.one_pass(step))], predict)


def then(first: base.Method, second: base.Method, start: int) -> base.Method:
    """`first` until epoch `start` (0-based) of the run, then `second` from the state that it left.

    Both are of one stage with states of one form, as those of `erm` with equal constants are.
    """
    (one,), (other,) = first.stages, second.stages
    rest = other._replace(epochs=other.epochs - start)
    return base.method(first.init, [one._replace(epochs=start), rest], first.predict)


def _class_counts(
    task: base.Task, name: str, derive: Callable[[np.ndarray], Any] = np.asarray
) -> Callable[[np.ndarray], Constants]:
    """`constants` of one entry, derived from how often each class is given."""
    return lambda labels: {name: derive(base.class_counts(labels, task.num_classes))}


# --- Methods by name. What is not theirs (`terms`) is SR's and mixup's: see `robustjax.methods.composable` ---------


@composable
def cross_entropy(task: base.Task, **terms: Any) -> base.Method:
    """Cross entropy on the given labels."""
    return erm(task, losses.cross_entropy, **terms)


@composable
def label_smoothing(task: base.Task, *, epsilon: float = 0.1, **terms: Any) -> base.Method:
    """Cross entropy to smoothed labels (Szegedy et al., CVPR 2016).

    Args:
      epsilon: share of the label that is spread over all classes, in [0, 1].
    """
    return erm(task, functools.partial(losses.label_smoothing, epsilon=epsilon), **terms)


@composable
def focal(task: base.Task, *, gamma: float = 0.5, detach: bool = False, **terms: Any) -> base.Method:
    """Focal loss (Lin et al., ICCV 2017).

    Args:
      gamma: focusing exponent of focal losses, at least 0.
      detach: no gradient through the focal factor (SR's and APL's code).
    """
    return erm(task, functools.partial(losses.focal, gamma=gamma, detach=detach), **terms)


@composable
def gce(task: base.Task, *, q: float = 0.7, clip: float = 0.0, **terms: Any) -> base.Method:
    """Generalized cross entropy (Zhang and Sabuncu, NeurIPS 2018).

    Args:
      q: in (0, 1]: near 0 it is cross entropy, at 1 it is MAE.
      clip: p_y counts as at least this, in [0, 1), and an example below it has no gradient; 1e-7 in SR's code, 0 for
        none.
    """
    if not 0 <= clip < 1:
        raise ValueError(f"clip={clip} must be in [0, 1).")
    limits = (clip, 1.0) if clip else None
    return erm(task, functools.partial(losses.generalized_cross_entropy, q=q, clip=limits), **terms)


@composable
def sce(task: base.Task, *, alpha: float = 0.1, beta: float = 1.0, **terms: Any) -> base.Method:
    """Symmetric cross entropy (Wang et al., ICCV 2019), with log 0 = log 1e-4.

    Args:
      alpha: weight of cross entropy (SCE), at least 0.
      beta: weight of reverse cross entropy (SCE), at least 0.
    """
    return erm(task, functools.partial(losses.symmetric_cross_entropy, alpha=alpha, beta=beta), **terms)


_ACTIVE: dict[str, Callable[..., jax.Array]] = {"nce": losses.normalized_cross_entropy, "nfl": losses.normalized_focal}
_PASSIVE: dict[str, Callable[..., jax.Array]] = {
    "mae": functools.partial(losses.mae, scale=1.0),
    "rce": losses.reverse_cross_entropy,
}


@composable
def apl(
    task: base.Task,
    *,
    active: str = "nce",
    passive: str = "mae",
    alpha: float = 1.0,
    beta: float = 1.0,
    gamma: float = 0.5,
    **terms: Any,
) -> base.Method:
    """Active and passive loss, NCE+MAE by default (Ma et al., ICML 2020).

    Args:
      active: "nce" (normalised cross entropy) or "nfl" (normalised focal loss).
      passive: "mae" (1 − p_y) or "rce" (reverse cross entropy).
      alpha: weight of the active loss (APL), at least 0.
      beta: weight of the passive loss (APL), at least 0.
      gamma: focusing exponent of focal losses, at least 0.
    """
    check_choice("active", active, tuple(_ACTIVE))
    check_choice("passive", passive, tuple(_PASSIVE))
    first = functools.partial(_ACTIVE[active], gamma=gamma) if active == "nfl" else _ACTIVE[active]
    pair = functools.partial(losses.active_passive, active=first, passive=_PASSIVE[passive], alpha=alpha, beta=beta)
    return erm(task, pair, **terms)


@composable
def mae(task: base.Task, **terms: Any) -> base.Method:
    """Mean absolute error, 2(1 − p_y) (Ghosh et al., AAAI 2017)."""
    return erm(task, losses.mae, **terms)


@composable
def nce(task: base.Task, **terms: Any) -> base.Method:
    """Normalised cross entropy (Ma et al., ICML 2020)."""
    return erm(task, losses.normalized_cross_entropy, **terms)


@composable
def rce(task: base.Task, **terms: Any) -> base.Method:
    """Reverse cross entropy (Wang et al., ICCV 2019)."""
    return erm(task, losses.reverse_cross_entropy, **terms)


@composable
def phuber_ce(task: base.Task, *, tau: float = 10.0, **terms: Any) -> base.Method:
    """Partially Huberised cross entropy (Menon et al., ICLR 2020).

    Args:
      tau: the loss is linear where p_y is below 1/τ; at least 1.
    """
    return erm(task, functools.partial(losses.partially_huberised_cross_entropy, tau=tau), **terms)


@composable
def bootstrap(task: base.Task, *, form: str = "soft", beta: float | None = None, **terms: Any) -> base.Method:
    """Bootstrapping (Reed et al., ICLR 2015 workshop).

    Args:
      form: bootstrapping's own labels: "soft" (the prediction) or "hard" (its argmax).
      beta: bootstrapping's trust in the given label, in [0, 1]; 0.95 for soft and 0.8 for hard labels if not given.
    """
    check_choice("form", form, ("soft", "hard"))
    loss, usual = (losses.soft_bootstrap, 0.95) if form == "soft" else (losses.hard_bootstrap, 0.8)
    return erm(task, functools.partial(loss, beta=usual if beta is None else beta), **terms)


@composable
def gjs(task: base.Task, *, label_weight: float = 0.3, views: int = 2, **terms: Any) -> base.Method:
    """Generalised Jensen–Shannon divergence of the label and the predictions on strong views.

    Englesson and Azizpour, NeurIPS 2021. One view is their JS loss.

    Args:
      label_weight: the label's weight π₁ in (0, 1); the views share the rest equally.
      views: how many augmented views of the batch a step takes, in [1, 2].
    """
    check_choice("views", views, (1, 2))
    weights = (label_weight, *[(1 - label_weight) / views] * views)
    loss = functools.partial(losses.generalized_jensen_shannon, weights=weights)
    return erm(task, loss, views=views, **terms)


@composable
def balanced_softmax(task: base.Task, **terms: Any) -> base.Method:
    """Balanced softmax (Ren et al., NeurIPS 2020): cross entropy of logits + log class counts."""
    return erm(task, losses.balanced_softmax, constants=_class_counts(task, "class_counts"), **terms)


@composable
def cb_focal(task: base.Task, *, gamma: float = 1.0, balance: float = 0.9999, **terms: Any) -> base.Method:
    """Class-balanced focal loss (Cui et al., CVPR 2019), in the form of LDAM's code.

    Args:
      gamma: focusing exponent of focal losses, at least 0.
      balance: β of the effective number of examples, in [0, 1); near 1 classes weigh as 1/n.
    """
    derive = functools.partial(margins.class_balanced_weights, beta=balance)
    loss = functools.partial(losses.class_balanced_focal, gamma=gamma)
    return erm(task, loss, constants=_class_counts(task, "class_weights", derive), **terms)


@composable
def ldam(
    task: base.Task,
    *,
    max_margin: float = 0.5,
    scale: float = 30.0,
    reweight_from: float = 1.0,
    balance: float = 0.9999,
    **terms: Any,
) -> base.Method:
    """Label-distribution-aware margins, with deferred re-weighting if asked (Cao et al., NeurIPS 2019).

    Args:
      max_margin: margin of the rarest class, positive.
      scale: factor on logits and margins, positive: 30 for a cosine classifier (`--head=cosine`), 1 for a linear one.
      reweight_from: share of the run, in [0, 1], after which classes are weighted (DRW), 0.8 in the paper; 1 is never.
      balance: β of the effective number of examples, in [0, 1); near 1 classes weigh as 1/n.
    """
    if not 0 <= reweight_from <= 1:
        raise ValueError(f"reweight_from={reweight_from} must be in [0, 1].")

    def constants(labels: np.ndarray) -> Constants:
        counts = base.class_counts(labels, task.num_classes)
        return {
            "margins": margins.ldam_margins(counts, max_margin),
            "class_weights": margins.class_balanced_weights(counts, balance),
        }

    def loss(logits: jax.Array, labels: jax.Array, *, margins: jax.Array, class_weights: jax.Array) -> jax.Array:
        return losses.ldam(logits, labels, margins=margins, scale=scale)

    def weights(labels: jax.Array, *, margins: jax.Array, class_weights: jax.Array) -> jax.Array:
        return example_weights(labels, class_weights)

    plain = erm(task, loss, constants=constants, **terms)
    weighted = erm(task, loss, constants=constants, weights=weights, **terms)
    method = then(plain, weighted, round(reweight_from * task.epochs))
    # The scale is part of the classifier: of cosines alone, no prediction would be sure.
    return method._replace(predict=lambda state, inputs: scale * method.predict(state, inputs))


@composable
def forward(
    task: base.Task, *, transition: str = "", pretrain_epochs: int = 0, percentile: float = 97.0, **terms: Any
) -> base.Method:
    """Forward correction (Patrini et al., CVPR 2017) with a transition matrix that is given or estimated.

    It is estimated from a first network, which learns by cross entropy (forward correction with the identity) and is
    then thrown away: two stages.

    Args:
      transition: .npy file of the matrix [C, C], rows P(given label | true label); estimated if not given.
      pretrain_epochs: epochs of the first network, at least 0, in which the schedule runs in short; 0: as many as
        `epochs`.
      percentile: which example of each class, in [0, 100], is its anchor: 97 in the authors' code, 100 (the surest) in
        the paper.

    Raises:
      ValueError: for a matrix that is not one, or an option out of its range.
      FileNotFoundError: if the file is not there.
    """
    if pretrain_epochs < 0:
        raise ValueError(f"pretrain_epochs={pretrain_epochs} must be at least 0.")
    if pretrain_epochs and transition:
        raise ValueError(
            f"pretrain_epochs={pretrain_epochs}: there is no first network with transition={transition!r}."
        )
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile={percentile} must be in [0, 100].")
    given = load_array("transition", transition) if transition else np.eye(task.num_classes)
    start = given.astype(np.float32)
    check_transition(start, task.num_classes)

    def corrected(**terms: Any) -> base.Method:
        return erm(task, losses.forward_correction, constants=lambda labels: {"transition": start}, **terms)

    method = corrected(**terms)
    if transition:
        return method
    first_epochs = pretrain_epochs or task.epochs
    if "strength" in terms:  # the second network's regulariser grows from the beginning
        grows = terms["strength"]
        terms["strength"] = lambda progress: grows(progress - first_epochs)

    def start_anew(state: ErmState, survey: base.Survey, key: jax.Array) -> ErmState:
        found = losses.estimate_transition(jax.nn.softmax(survey.seen), percentile=percentile)
        return ErmState(base.new_learner(key, task), {"transition": found})

    (plain,), (final,) = method.stages, corrected(**terms).stages
    first = plain._replace(epochs=first_epochs, schedule=base.in_short(task, first_epochs), preliminary=True)
    final = final._replace(enter=start_anew, look=method.predict, when="entry", schedule=task.schedule)
    return base.method(method.init, [first, final], method.predict)


@composable
def dmi(task: base.Task, *, tuning_epochs: int = 0, dmi_learning_rate: float = 1e-6, **terms: Any) -> base.Method:
    """Determinant-based mutual information (Xu et al., NeurIPS 2019), which tunes what cross entropy has learned.

    The run of cross entropy comes first, with the whole of its schedule; `tuning_epochs` follow. The loss is of the
    whole batch: every example has the batch's value.

    Args:
      tuning_epochs: epochs of DMI, at least 0, after those of cross entropy, 100 in the authors' code; 0: as many as
        `epochs`.
      dmi_learning_rate: constant learning rate of DMI, positive.
    """
    if tuning_epochs < 0:
        raise ValueError(f"tuning_epochs={tuning_epochs} must be at least 0.")
    if dmi_learning_rate <= 0:
        raise ValueError(f"dmi_learning_rate={dmi_learning_rate} must be positive.")

    def loss(logits: jax.Array, labels: jax.Array, *, mask: jax.Array) -> jax.Array:
        return jnp.full(labels.shape[:1], losses.dmi(logits, labels, mask=mask))

    learned = erm(task, losses.cross_entropy, **terms)
    (tuned,) = erm(task, loss, of_the_batch=True, **terms).stages
    tuned = tuned._replace(epochs=tuning_epochs or task.epochs, schedule=schedules.constant(dmi_learning_rate))
    return base.method(learned.init, [*learned.stages, tuned], learned.predict)


def _entry(name: str, make: base.Factory, paper: str, *aliases: str, **facts: Any) -> base.Entry:
    return base.Entry(name, make, paper, aliases, **facts)


_ERM, _APL, _SR = "Vapnik, NIPS 1991", "Ma et al., ICML 2020", "Zhou et al., ICCV 2021"

ENTRIES = (
    _entry("cross_entropy", cross_entropy, _ERM, "ce", "erm"),
    _entry("balanced_softmax", balanced_softmax, "Ren et al., NeurIPS 2020", "bs"),
    _entry("label_smoothing", label_smoothing, "Szegedy et al., CVPR 2016", "ls"),
    _entry("focal", focal, "Lin et al., ICCV 2017", "fl"),
    _entry("gce", gce, "Zhang and Sabuncu, NeurIPS 2018"),
    _entry("sce", sce, "Wang et al., ICCV 2019", "sl"),
    _entry("mae", mae, "Ghosh et al., AAAI 2017"),
    _entry("nce", nce, _APL),
    _entry("rce", rce, "Wang et al., ICCV 2019"),
    _entry("apl", apl, _APL),
    _entry("nce_mae", functools.partial(apl, active="nce", passive="mae"), _APL),
    _entry("nce_rce", functools.partial(apl, active="nce", passive="rce"), _APL),
    _entry("nfl_mae", functools.partial(apl, active="nfl", passive="mae"), _APL),
    _entry("nfl_rce", functools.partial(apl, active="nfl", passive="rce"), _APL),
    _entry("phuber_ce", phuber_ce, "Menon et al., ICLR 2020", "phuber"),
    _entry("bootstrap", bootstrap, "Reed et al., ICLR workshop 2015"),
    _entry("forward", forward, "Patrini et al., CVPR 2017", small={"pretrain_epochs": 1}),
    _entry("gjs", gjs, "Englesson and Azizpour, NeurIPS 2021", cost=2.0),
    _entry("dmi", dmi, "Xu et al., NeurIPS 2019", small={"tuning_epochs": 2, "dmi_learning_rate": 1e-3}),
    _entry("cb_focal", cb_focal, "Cui et al., CVPR 2019"),
    _entry("ldam", ldam, "Cao et al., NeurIPS 2019", small={"scale": 4.0}),
    _entry("ldam_drw", functools.partial(ldam, reweight_from=0.8), "Cao et al., NeurIPS 2019", family="ldam",
           small={"scale": 4.0, "reweight_from": 0.5}),
    # Sparse regularisation; GCE is almost cross entropy there (SR's code; 0.001 for CIFAR-100).
    _entry("ce_sr", functools.partial(cross_entropy, regularizer="sparse"), _SR),
    _entry("fl_sr", functools.partial(focal, regularizer="sparse"), _SR),
    _entry("gce_sr", functools.partial(gce, regularizer="sparse", q=0.01), _SR),
    _entry("mixup", functools.partial(cross_entropy, mixup=1.0), "Zhang et al., ICLR 2018"),
)  # fmt: skip

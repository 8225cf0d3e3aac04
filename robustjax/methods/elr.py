"""ELR and ELR+: early-learning regularisation (Liu et al., NeurIPS 2020).

Before a network memorises wrong labels it predicts the right ones. ELR keeps a running average of what the network
predicts for each training example, its target t_i, and pulls the prediction towards it:

    t_i ← β t_i + (1 − β) p_i,     L = mean_i [ℓ(p_i, y_i) + λ log(1 − ⟨p_i, t_i⟩)],     p = softmax(z)

with t_i updated first and held constant in the loss. The gradient at the logits is p − y + λ g (Lemma 2): on a right
label g keeps the coefficient from vanishing, on a wrong one it cancels p − y (`regularizers.early_learning_gradient`).

ELR+ adds three things, each an option, so that the paper's ablation (its Table 5) is eight commands:

- `networks=2`: two networks, the targets of each from the other's predictions. An epoch trains the first one, then the
  second;
- `weight_averaging`: targets come from a running average of the weights (a mean teacher), not from the weights;
- `mixup`: the loss is on mixed inputs, labels and targets; predictions for the targets are on the inputs as they are.

With any of the three, targets come from a forward pass of their own, in train mode and without gradient. Prediction is
the mean of the networks' logits; averaged weights do not predict.

Where paper and authors' code differ this follows the code, as the paper's numbers do: probabilities are clipped to
[1e-4, 1 − 1e-4] (`--no-clip` for the paper's formula); ELR's targets take the clipped ones, normalised anew, ELR+'s
the plain ones. In their ELR+ for CIFAR the two networks see different draws of noise and validation split; here both
see the same, as the paper has it.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import findings, losses, regularizers, schedules
from robustjax._checks import check_choice
from robustjax.methods import base, peers
from robustjax.mixup import apply_mix, draw_mix
from robustjax.models import Variables

FORMS = ("log", "kl")
STORES = ("float32", "bfloat16")
_CLIP = (1e-4, 1 - 1e-4)
_GONE = 0.01  # of a mean class: a class with fewer targets is warned of


class Student(NamedTuple):
    """One network of ELR.

    Attributes:
      learner: the network.
      average: averaged weights; empty without weight averaging.
      targets: running targets t [N, C].
      steps: int32 scalar, steps made so far; it drives the ramps.
    """

    learner: base.Learner
    average: Variables
    targets: base.PerExample
    steps: jax.Array


class ElrState(NamedTuple):
    """The networks: one, or two."""

    students: tuple[Student, ...]


def elr(
    task: base.Task,
    *,
    strength: float = 3.0,
    beta: float = 0.7,
    networks: int = 1,
    weight_averaging: bool = False,
    mixup: float = 0.0,
    ramp_steps: int = 0,
    average_decay: float = 0.997,
    average_ramp_steps: int = 40000,
    refine: bool = False,
    early_learning: str = "log",
    clip: bool = True,
    target_store: str = "float32",
) -> base.Method:
    """Early-learning regularisation (ELR), and with its further elements ELR+ (Liu et al., NeurIPS 2020).

    Args:
      strength: ELR's λ, weight of the regulariser, at least 0.
      beta: ELR's memory of the running targets, in [0, 1).
      networks: how many, in [1, 2]; 2 learn from each other's targets.
      weight_averaging: targets from a running average of the weights.
      mixup: α of mixup's Beta(α, α), at least 0; 0 mixes nothing.
      ramp_steps: steps of a network, at least 0, in which the weight of ELR's regulariser rises as exp(−5(1 − t)²);
        0: none.
      average_decay: memory of the averaged weights in the end, in [0, 1).
      average_ramp_steps: steps, at least 0, in which that memory rises; 0: the mean of the start and all weights since,
        until it meets average_decay.
      refine: ELR+'s label refinement for CIFAR-100: labels, once mixed, are multiplied by the targets.
      early_learning: "log" for ELR's term, "kl" for the cross entropy to the targets that its appendix C rejects.
      clip: clip probabilities to [1e-4, 1 − 1e-4], as the authors' code does.
      target_store: "float32", or "bfloat16" for half the memory: N·C numbers a network.

    Raises:
      ValueError: an option out of its range.
    """
    if not 0 <= strength < math.inf:
        raise ValueError(f"strength={strength} must be at least 0 and finite.")
    if not 0 <= beta < 1:
        raise ValueError(f"beta={beta} must be in [0, 1).")
    check_choice("networks", networks, (1, 2))
    check_choice("early_learning", early_learning, FORMS)
    check_choice("target_store", target_store, STORES)
    base.check_mixup(task, mixup)
    teaches = networks == 2 or weight_averaging or mixup > 0
    streams = ("first", "second") if networks == 2 else ("train",)
    limits = _CLIP if clip else None
    ramp = schedules.sigmoid_rampup(ramp_steps)
    decay = schedules.averaging_decay(average_decay, average_ramp_steps)

    def pull(logits: jax.Array, targets: jax.Array) -> jax.Array:
        if early_learning == "kl":
            return regularizers.early_learning_kl(logits, targets)
        return regularizers.early_learning(logits, targets, clip=limits)

    def init(key: jax.Array, labels: np.ndarray) -> ElrState:
        def student(which: int) -> Student:
            own = jax.random.fold_in(key, which)
            average = peers.init_average(jax.random.fold_in(own, 1), task) if weight_averaging else peers.NO_AVERAGE
            targets = base.per_example(task.num_examples, (task.num_classes,), jnp.dtype(target_store))
            return Student(base.init_learner(own, task), average, targets, jnp.int32(0))

        return ElrState(tuple(student(which) for which in range(networks)))

    def teach(state: ElrState, which: int, inputs: jax.Array, key: jax.Array) -> tuple[ElrState, jax.Array]:
        """Probabilities for the targets of student `which`; its teacher's own batch statistics move on."""
        source = 1 - which if networks == 2 else which
        teacher = state.students[source]
        if not weight_averaging:
            logits, _ = base.train_apply(task, teacher.learner, teacher.learner.params, inputs, key)
            return state, jax.nn.softmax(logits)
        average, logits = peers.average_logits(task, teacher.average, inputs, key)
        return _with(state, source, teacher._replace(average=average)), jax.nn.softmax(logits)

    def make_step(which: int) -> base.StepFunction:
        def step(
            state: ElrState, batches: base.Batches, clock: base.Clock, key: jax.Array
        ) -> tuple[ElrState, base.Metrics]:
            batch = batches[streams[which]]
            view_key, mix_key, model_key, teacher_key = jax.random.split(key, 4)
            inputs, labels = task.strong(view_key, batch.inputs), jax.nn.one_hot(batch.labels, task.num_classes)
            before = base.recall(state.students[which].targets, batch.index)
            if teaches:
                state, probs = teach(state, which, inputs, teacher_key)
                taught = regularizers.update_targets(before, probs, beta)
            student = state.students[which]
            mixed: Callable[[jax.Array], jax.Array] = lambda values: values  # noqa: E731
            if mixup:
                mixed = functools.partial(apply_mix, mix=draw_mix(mix_key, len(labels), mixup, keep_larger=True))
            inputs, labels = mixed(inputs), mixed(labels)
            now = student.steps + 1  # the code counts the step that it makes
            amount = strength * ramp(now)

            def attempt(params: Any) -> base.Attempt:
                logits, stats = base.train_apply(task, student.learner, params, inputs, model_key)
                if teaches:
                    targets = taught
                else:
                    probs = regularizers.clipped_probabilities(logits, limits)
                    targets = regularizers.update_targets(before, probs, beta)
                wanted = mixed(targets.astype(labels.dtype))
                fitted = regularizers.refine_labels(labels, wanted) if refine else labels
                terms = {
                    "unregularized_loss": base.Term(losses.cross_entropy(logits, fitted), batch.mask),
                    "regularizer": base.Term(pull(logits, wanted), batch.mask, amount),
                }
                return base.Attempt(terms, logits, stats, aux=targets)

            learner, metrics, targets = base.descend(task, student.learner, batch, clock, attempt)
            average = student.average
            if weight_averaging:
                average = peers.averaged(average, learner.params, 1 - decay(now))
            memory = base.remember(student.targets, batch, targets)
            return _with(state, which, Student(learner, average, memory, now)), metrics

        return step

    def predict(state: ElrState, inputs: jax.Array) -> jax.Array:
        return peers.ensemble(task, [student.learner for student in state.students], inputs)

    def plan(state: ElrState, survey: base.Survey, clock: base.Clock, key: jax.Array) -> tuple[ElrState, base.Plan]:
        everything = jnp.ones(survey.labels.shape, bool)
        keys = jax.random.split(key, networks)
        return state, {name: base.shuffled(k, everything) for name, k in zip(streams, keys, strict=True)}

    def inspect(state: ElrState, survey: base.Survey) -> findings.Findings:
        first, *rest = (
            base.recall_all(student.targets, task.num_examples).astype(jnp.float32) for student in state.students
        )
        targets = sum(rest, first) / networks
        amount = strength * ramp(state.students[0].steps)
        return {
            "target": findings.LabelDistribution(targets),
            "elr": findings.LogitGradient(amount * regularizers.early_learning_gradient(survey.seen, targets)),
        }

    def warnings(state: ElrState) -> tuple[str, ...]:
        if strength == 0:
            return ()
        believed = [np.asarray(base.recall_all(each.targets, task.num_examples)).argmax(-1) for each in state.students]
        counts = np.sum([np.bincount(each, minlength=task.num_classes) for each in believed], axis=0)
        gone = np.flatnonzero(counts < _GONE * counts.mean())
        if not gone.size:
            return ()
        which = ", ".join(map(str, gone[:10])) + (" …" if len(gone) > 10 else "")
        return (
            f"ELR has given up the class(es) {which} (numbered from 0): hardly any target is of them, so that their "
            f"labels count as noise. Try a smaller --strength than {strength:g}, or another method.",
        )

    passes = tuple((base.Step(make_step(which), (base.Draw(name),)),) for which, name in enumerate(streams))
    stage = base.Stage(task.epochs, passes, plan=plan if networks == 2 else None)
    return base.method(init, [stage], predict, inspect, warnings)


def _with(state: ElrState, which: int, student: Student) -> ElrState:
    """The state with student number `which` replaced."""
    return ElrState(peers.replaced(state.students, which, student))


_PAPER = "Liu et al., NeurIPS 2020"

ENTRIES = (
    base.Entry("elr", elr, _PAPER, memory="C"),
    # ELR+ and the ablation of its Table 5: two networks or one, with and without weight averaging and mixup.
    *(
        base.Entry(
            f"elr_plus{one}{no_average}{no_mixup}",
            functools.partial(
                elr, networks=1 if one else 2, weight_averaging=not no_average, mixup=0.0 if no_mixup else 1.0
            ),
            _PAPER,
            family="elr_plus",
            networks=1 if one else 2,
            memory="C" if one else "2 C",
            cost=1.0 if one and no_average and no_mixup else 1.33,  # a pass of its own for the targets
            small={"average_ramp_steps": 6, "ramp_steps": 4},
        )
        for one, no_average, no_mixup in itertools.product(
            ("", "_one_network"), ("", "_no_weight_averaging"), ("", "_no_mixup")
        )
    ),
)

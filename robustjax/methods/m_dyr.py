"""Dynamic bootstrapping with mixup, M-DYR (Arazo et al., ICML 2019): two beta distributions tell wrong labels by loss.

Wrong labels are learned late, so the losses of a training set have two heaps. Before each epoch a mixture of two beta
distributions is fitted to them; B_i is the probability that example i, by its loss now, is of the larger ones. The run
has three phases:

1. mixup: inputs and labels of two examples in the ratio λ : 1 − λ, λ ~ Beta(α, α);
2. dynamic mixup: inputs of examples p and q in the ratio 1 − B_p : 1 − B_q, so that the one whose label is likelier
   prevails, and their labels in halves;
3. with bootstrapping: in place of a label, (1 − B_i) e_y + B_i softmax(z_i / T), z_i the network's logits on the input
   before it is mixed; T falls from 1 (soft) to 0.001 (hard). The penalty KL(uniform ‖ mean p) keeps it from choosing
   one class.

The papers that compare with it call this whole one M-DYR-SH; its authors, MD-DYR-SH. With `mixing="static"` phase 2 is
left out and phase 3 mixes as phase 1 does: their M-DYR-S and M-DYR-H, by `form`.

Constants, the range of losses that is fitted and the table of B are those of the authors' code, but that the smallest
losses are never suspects (`mixtures.beta_noise_table`, form "bounded"). So is what the paper leaves open: z comes from
a pass in train mode, whose batch statistics stay. Unlike there, where the epoch's losses and B_i are of random views,
both are of the inputs as they are; and in phase 2 the labels' halves are halves, where the code draws them close to it,
λ ~ Beta(32, 32).

The mixture knows no classes: a rare class has large losses, so its labels pass for wrong. On a long tail with right
labels this is below cross entropy; with 40 % of them wrong it was above it on scikit-learn's digits.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import findings, losses, mixtures, targets
from robustjax._checks import check_choice
from robustjax.methods import base
from robustjax.mixup import apply_mix, draw_mix

FORMS = ("soft_to_hard", "soft", "hard")
MIXINGS = ("dynamic", "static")
_SOFT, _HARD = 1.0, 1e-3  # temperatures
_OUTLIERS = (5.0, 95.0)  # percentiles of the losses, between which they are fitted


class LossModel(NamedTuple):
    """Two beta distributions of losses, brought from `low` … `high` to [0, 1]; zeros before the fit."""

    mixture: mixtures.BetaMixture
    low: jax.Array
    high: jax.Array


class MDyrState(NamedTuple):
    """The network, and what is known of the losses."""

    learner: base.Learner
    model: LossModel


def fit_losses(values: jax.Array) -> LossModel:
    """The model of losses [N], from those between their 5th and 95th percentile."""
    low, high = jnp.percentile(values, jnp.asarray(_OUTLIERS, values.dtype))
    inside = ((values >= low) & (values <= high)).astype(values.dtype)
    return LossModel(mixtures.fit_beta_mixture(_scaled(values, low, high), inside), low, high)


def noise_probability(model: LossModel, values: jax.Array) -> jax.Array:
    """B, the probability [...] that labels are wrong, from their losses; never quite 0 or 1, so that ratios exist."""
    found = mixtures.beta_noise_probability(model.mixture, _scaled(values, model.low, model.high), form="bounded")
    return jnp.clip(found, 1e-4, 1 - 1e-4)


def _scaled(values: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """Losses in [0.001, 0.999]."""
    low = low + 1e-5
    return jnp.clip((values - low) / jnp.maximum(high - low + 1e-6, 1e-6), 1e-3, 1 - 1e-3)


def m_dyr(
    task: base.Task,
    *,
    alpha: float = 32.0,
    guided_from: float = 0.35,
    bootstrap_from: float = 0.367,
    hard_from: float = 0.66,
    prior_strength: float = 1.0,
    form: str = "soft_to_hard",
    mixing: str = "dynamic",
) -> base.Method:
    """Mixup with dynamic bootstrapping, soft to hard (M-DYR; Arazo et al., ICML 2019).

    Labels of rare classes may pass for wrong. Phases start at shares of the run, by default
    those of the authors' 300 epochs; 1 is never.

    Args:
      alpha: α of mixup's Beta(α, α), positive; 32 mixes nearly in halves.
      guided_from: share of the run, in [0, 1], after which losses are modelled and inputs mixed by them.
      bootstrap_from: share of the run, in [0, 1], after which M-DYR's labels are those that the network corrects.
      hard_from: share of the run, in [0, 1], at which its corrections have become hard.
      prior_strength: weight of the penalty on unequal mean predictions, at least 0.
      form: of M-DYR's corrections: "soft_to_hard", or "soft" or "hard" throughout.
      mixing: "dynamic", inputs by how likely their labels are right and labels in halves, or "static", as in mixup.

    Raises:
      ValueError: an option out of its range, by name.
    """
    check_choice("form", form, FORMS)
    check_choice("mixing", mixing, MIXINGS)
    if not alpha > 0:
        raise ValueError(f"alpha={alpha} must be positive.")
    base.check_mixup(task, alpha, "alpha", needed=True)
    if not 0 <= guided_from <= bootstrap_from <= hard_from <= 1:
        raise ValueError(
            "0 <= guided_from <= bootstrap_from <= hard_from <= 1 is needed, "
            f"got {guided_from}, {bootstrap_from} and {hard_from}."
        )
    if not prior_strength >= 0:
        raise ValueError(f"prior_strength={prior_strength} must be at least 0.")
    guided, bootstrapped, hard = (round(f * task.epochs) for f in (guided_from, bootstrap_from, hard_from))
    if mixing == "static":
        bootstrapped = guided  # what lies between is dynamic mixing alone
    warmest, coldest = (_HARD if form == "hard" else _SOFT), (_SOFT if form == "soft" else _HARD)

    def temperature(epoch: jax.Array) -> jax.Array:
        done = (epoch - bootstrapped).astype(float) / max(hard - bootstrapped, 1)
        return warmest + (coldest - warmest) * jnp.clip(done, 0, 1)

    def init(key: jax.Array, labels: np.ndarray) -> MDyrState:
        unknown = LossModel(mixtures.BetaMixture(*jnp.zeros((3, 2))), jnp.zeros(()), jnp.zeros(()))
        return MDyrState(base.init_learner(key, task), unknown)

    def warmup_step(
        state: MDyrState, batches: base.Batches, clock: base.Clock, key: jax.Array
    ) -> tuple[MDyrState, base.Metrics]:
        """Mixup."""
        batch = batches["train"]
        view_key, mix_key, model_key = jax.random.split(key, 3)
        mix = draw_mix(mix_key, len(batch.labels), alpha)
        inputs = apply_mix(task.strong(view_key, batch.inputs), mix)
        wanted = apply_mix(jax.nn.one_hot(batch.labels, task.num_classes), mix)

        def terms(logits: jax.Array) -> dict[str, base.Term]:
            return {"loss": base.Term(losses.cross_entropy(logits, wanted), batch.mask)}

        attempt = base.attempt_on(task, state.learner, inputs, model_key, terms)
        learner, metrics, _ = base.descend(task, state.learner, batch, clock, attempt)
        return state._replace(learner=learner), metrics

    def step(
        state: MDyrState, batches: base.Batches, clock: base.Clock, key: jax.Array
    ) -> tuple[MDyrState, base.Metrics]:
        """Mixing guided by the losses, and once it is time, corrected labels."""
        batch = batches["train"]
        view_key, mix_key, guess_key, model_key = jax.random.split(key, 4)
        now = clock.epoch >= bootstrapped
        given = losses.cross_entropy(base.predict_with(task, state.learner, batch.inputs), batch.labels)
        noise = noise_probability(state.model, given)

        inputs = task.strong(view_key, batch.inputs)
        guess, stats = base.train_apply(task, state.learner, state.learner.params, inputs, guess_key)
        learner = state.learner._replace(stats=stats)
        soft = jax.nn.softmax(guess.astype(noise.dtype) / temperature(clock.epoch))
        corrected = targets.corrected_labels(1 - jnp.where(now, noise, 0), batch.labels, soft)

        mix = draw_mix(mix_key, len(noise), alpha)
        halves = mix
        if mixing == "dynamic":
            right = 1 - noise
            mix = mix._replace(share=right / (right + right[mix.partner]))
            halves = mix._replace(share=jnp.asarray(0.5, noise.dtype))
        inputs, wanted = apply_mix(inputs, mix), apply_mix(corrected, halves)

        def attempt(params: Any) -> base.Attempt:
            logits, stats = base.train_apply(task, learner, params, inputs, model_key)
            penalty = jnp.full(batch.mask.shape, targets.prior_penalty(logits, batch.mask))
            terms = {
                "mixed_loss": base.Term(losses.cross_entropy(logits, wanted), batch.mask),
                "prior_penalty": base.Term(penalty, batch.mask, prior_strength * now.astype(penalty.dtype)),
            }
            return base.Attempt(terms, guess, stats)

        learner, metrics, _ = base.descend(task, learner, batch, clock, attempt)
        return state._replace(learner=learner), metrics | {"noise_probability": base.tally(noise, batch.mask)}

    def predict(state: MDyrState, inputs: jax.Array) -> jax.Array:
        return base.predict_with(task, state.learner, inputs)

    def fit(state: MDyrState, survey: base.Survey, clock: base.Clock, key: jax.Array) -> tuple[MDyrState, base.Plan]:
        model = fit_losses(losses.cross_entropy(survey.seen, survey.labels))
        return base.draw_all(state._replace(model=model), survey, clock, key)

    def inspect(state: MDyrState, survey: base.Survey) -> findings.Findings:
        known = jnp.any(state.model.mixture.weights > 0)
        noise = noise_probability(state.model, losses.cross_entropy(survey.seen, survey.labels))
        believed = targets.corrected_labels(1 - noise, survey.labels, jax.nn.softmax(survey.seen))
        return {
            "noise_score": findings.NoiseScore(findings.when_known(known, noise)),
            "correction": findings.LabelDistribution(findings.when_known(known, believed)),
        }

    stages = [
        base.Stage(guided, base.one_pass(warmup_step), base.draw_all),
        base.Stage(task.epochs - guided, base.one_pass(step), fit, look=predict, when="epoch"),
    ]
    return base.method(init, stages, predict, inspect)


ENTRIES = (
    base.Entry(
        "m_dyr_sh",
        m_dyr,
        "Arazo et al., ICML 2019",
        aliases=("m_dyr", "md_dyr_sh", "m_correction"),
        cost=1.67,  # two forward passes more
        small={"alpha": 4.0},
    ),
)

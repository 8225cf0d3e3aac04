"""Shared test set-up: four fake CPU devices, no accelerator, strict types, quick compilation and one cache of programs.

What must hold before JAX is imported is set here through the environment, so that it also holds for the processes that
tests start.
"""

import fnmatch
import importlib.metadata
import os
import sys
import tempfile
from collections.abc import Iterator

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Nothing here runs long enough to earn back what optimising costs: LLVM's passes are half of all compile time, and
# XLA's fusion emitters half of the rest. (Without both, jaxlib 0.10.2 gets the gradient of a convolution before a
# max-pool wrong, so that tests of these take the emitters: `toys.with_emitters`. Another jaxlib may not know the flag.)
_flags = ["--xla_force_host_platform_device_count=4", "--xla_backend_optimization_level=0"]
if importlib.metadata.version("jaxlib").startswith("0.10."):
    _flags.append("--xla_cpu_use_fusion_emitters=false")
for _flag in _flags:
    if _flag.partition("=")[0] not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flag}".strip()
# int · float and the like must be written out.
os.environ.setdefault("JAX_NUMPY_DTYPE_PROMOTION", "strict")
# Many tests train the same small networks. Worker processes inherit the first one's folder.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="robustjax-tests-"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")

# Files of which every test is left out at an edit (`-m "not slow"`): whole runs, thousands of small programs,
# figures, single methods and their pieces. Whoever edits one of these runs its tests by name.
SLOW_FILES = {
    "augment_test.py", "autoaugment_test.py", "bbn_test.py", "cmw_net_test.py", "co_teaching_test.py",
    "contributing_test.py", "cost_test.py", "curvenet_test.py", "custom_loss_test.py", "custom_model_test.py",
    "dividemix_test.py", "doctest_test.py", "dynamic_loss_test.py", "elr_theory_test.py", "famus_test.py",
    "figures_elr_test.py", "figures_sr_test.py", "har_test.py", "har_theory_test.py", "hardening_test.py",
    "incv_test.py", "l2rw_test.py", "lstm_test.py", "m_dyr_test.py", "mentornet_test.py", "meta_nets_test.py",
    "meta_test.py", "mixtures_test.py", "mixup_test.py", "models_test.py", "mw_net_test.py", "nct_test.py",
    "nlnl_test.py", "oracle_test.py", "own_code_test.py", "parallel_test.py", "pencil_test.py", "plc_test.py",
    "run_test.py", "same_runs_test.py", "selfie_test.py", "sparse_test.py", "strict_promotion_test.py",
    "targets_test.py", "text_test.py", "trusted_test.py",
}  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def _no_audits() -> Iterator[None]:
    """Runs end without an audit and its page, a second each; audit_test has it back."""
    audit = sys.modules.get("experiments.runs.audit")  # if any test file that was collected imports it
    with pytest.MonkeyPatch.context() as patch:
        if audit is not None:
            patch.setattr(audit, "after_run", lambda *arguments: None)
        yield


# Tests that wait for a release (`-m ""`) for nothing but their cost, 2 to 10 seconds each, mostly of compiling: a
# second look at what another test of the file looks at too, whole runs, and baselines.
COSTLY = (
    "augment_test.py::test_small_grey_images*", "augment_test.py::test_view_range_determinism_and_jit?*rotate?",
    "augment_test.py::test_vmap_over_seeds*", "autoaugment_test.py::test_one_magnitude*",
    "autoaugment_test.py::test_operation_with*", "mixtures_test.py::test_degenerate*",
    "common_suite_test.py::test_half_precision_is_finite?[dh]*",
    "common_suite_test.py::test_compiled_equals_eager?har?", "common_suite_test.py::test_beats_*?har?",
    "contributing_test.py::test_its_options*", "custom_loss_test.py::test_a_users_cross_entropy*",
    "dividemix_test.py::test_each_network*", "dividemix_test.py::test_it_finds*",
    "dividemix_test.py::test_the_threshold*", "famus_test.py::test_it_finds*",
    "elr_test.py::test_two_networks*", "elr_theory_test.py::test_command_line",
    "elr_theory_test.py::test_cross_entropy_learns*", "engine_test.py::test_passes_of_dynamic_loss",
    "engine_test.py::test_the_compiled_loop_equals_the_python_loop?dynamic*",
    "erm_test.py::test_method_is_deterministic*",
    "evaluation_test.py::test_auroc_equals_sklearn*", "figures_elr_test.py::test_figures_of_runs*",
    "figures_sr_test.py::test_command_line*", "har_test.py::test_groups_of_examples",
    "har_test.py::test_one_command_runs_both_stages", "har_theory_test.py::test_losses_tell*",
    "common_suite_test.py::test_four_devices_equal_one?har?", "common_suite_test.py::test_seeds_at_once_*?har?",
    "dynamic_loss_test.py::test_hierarchical_sampling", "erm_test.py::test_method_learns_clean_digits*",
    "har_test.py::test_hidden_gradients*", "lstm_test.py::test_logits_are*", "lstm_test.py::test_taps_are*",
    "meta_test.py::test_any_optimizer*clipped*", "parallel_test.py::test_one_seed_a_device*cross_entropy?",
    "lstm_test.py::test_bfloat16*", "lstm_test.py::test_four_devices*", "meta_test.py::test_closed_forms*x32?",
    "mixup_test.py::test_any_erm_method*", "models_test.py::test_cosine_head", "models_test.py::test_seeds_by_vmap*",
    "models_test.py::test_tap_gradients_agree*True?", "nlnl_test.py::test_all_phases*",
    "oracle_test.py::test_oracle?arch.elr_resnet34*", "oracle_test.py::test_oracle?arch.har_resnet32_c100*",
    "oracle_test.py::test_oracle?arch.sr_resnet34*", "own_code_test.py::test_a_model_in_a_file_end_to_end?nnx?",
    "own_code_test.py::test_options_of_a_registered_model", "parallel_test.py::test_convolutions_on_a_mesh*",
    "parallel_test.py::test_seeds_of_unequal_meta_sets", "run_test.py::test_a_directory_in_use_is_refused",
    "run_test.py::test_a_run_directory_is_complete?elr?", "sparse_test.py::test_any_loss_takes*",
    "text_test.py::test_a_run_on_texts*", "trusted_test.py::test_a_noise_file_gives_way*",
    "trusted_test.py::test_they_are_told_below*",
    "augment_test.py::test_view_in_a_loop*", "har_theory_test.py::test_command_line",
    "m_dyr_test.py::test_a_step_is_the_formula?static*",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of slow files, and what waits for a release, before -m chooses."""
    for item in items:
        place = f"{item.path.name}::{item.nodeid.partition('::')[2]}"
        if any(fnmatch.fnmatchcase(place, pattern) for pattern in COSTLY):
            item.add_marker(pytest.mark.exhaustive)
        if item.path.name in SLOW_FILES or item.get_closest_marker("exhaustive"):
            item.add_marker(pytest.mark.slow)

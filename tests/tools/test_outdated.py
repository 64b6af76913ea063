"""Keys and variables of an earlier version are answered with what they are called now."""

from dataclasses import dataclass

import pytest
from click.testing import CliRunner

from sslood.core.errors import InputError
from sslood.core.renamed import RENAMED, VARIABLES, renamed
from sslood.core.settings import Settings, strict
from stages import network, posthoc, pretrain, ssd
from tools.closure import ROOT
from tools.outdated import keys, outdated
from tools.switch import read_yaml


def test_old_keys_of_the_params_are_named_with_their_new_names(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("architecture: resnet-8-16\nposthoc: {search: true, detectors: [msp]}\n")
    lines = outdated(path, {"SSLOOD_PRECISION": "bf16", "HOME": "/"})
    assert lines == [
        f"{path}: 'architecture' is gone: {RENAMED['architecture']}",
        f"{path}: 'posthoc.search' is gone: {RENAMED['posthoc.search']}",
        f"SSLOOD_PRECISION is gone: {VARIABLES['SSLOOD_PRECISION']}",
    ]


def test_current_params_and_profiles_hold_no_old_name():
    for path in [ROOT / "params.yaml", *sorted((ROOT / "profiles").glob("*.yaml"))]:
        assert outdated(path, {}) == [], path


def test_no_old_name_is_a_key_of_the_current_params():
    assert not [key for key in keys(read_yaml(ROOT / "params.yaml")) if renamed(key)]


def test_a_settings_class_that_meets_an_old_key_says_its_new_name():
    @dataclass(frozen=True)
    class PosthocSettings(Settings):
        detectors: int = 0

    with pytest.raises(InputError, match="^params.yaml:posthoc: 'search' is gone: write `auto`"):
        strict(PosthocSettings, {"search": True}, "params.yaml:posthoc")


@pytest.mark.parametrize(
    ("module", "option", "key"),
    [
        (posthoc, "--search", "posthoc.search"),
        (posthoc, "--no-search", "posthoc.search"),
        (network, "--odin.epsilons", "network.odin.epsilons"),
        (ssd, "--select", "ssd.select"),
        (pretrain, "--architecture", "architecture"),
    ],
)
def test_an_option_of_an_earlier_version_is_answered_with_its_new_name(module, option, key):
    result = CliRunner().invoke(module.main, [option, "1"])
    assert result.exit_code == 2 and f"{option} is gone: {RENAMED[key]} (" in result.output

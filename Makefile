# make demo    set everything up and profile llama-3.2-1b on this machine
# make test    set everything up and run the tests (sampled counts)
# make check   style, types, import rules, Dockerfile, compose files and workflow
# make image   builds the CPU image and runs a profile and the demo in it
# make accept  the full counts; prints a table and writes docs/measurements/
# make docs    the manual, into build/site

VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-core check image accept docs clean

$(VENV)/.ready: pyproject.toml .ci/environment
	sh .ci/environment full $(VENV)

.venv-core/.ready: pyproject.toml .ci/environment
	sh .ci/environment core .venv-core

demo: $(VENV)/.ready
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/demo.sh

# A process a core and one more, since many tests wait; a file in one of them, where what its tests share is made once;
# then, by themselves, the tests that judge real time.
CORES := $(shell nproc 2>/dev/null || echo 2)
WORKERS := -n $(shell n=$$(( $(CORES) + 1 )); [ $$n -gt 5 ] && n=5; echo $$n) --dist loadfile --no-loadscope-reorder

# A database a test waits for the disk at each finished point; in memory, where there is much, it does not.
ROOMY := $(shell test -w /dev/shm && df -Pk /dev/shm | awk 'NR == 2 && $$4 > 4000000 { print "/dev/shm" }')
ifneq ($(ROOMY),)
test test-core accept: export PYTEST_DEBUG_TEMPROOT := $(ROOMY)
endif

test: $(VENV)/.ready test-core
	$(BIN)/python -m pytest -q $(WORKERS) -m "not accept and not alone"
	$(BIN)/python -m pytest -q -m "alone and not accept"

# The light install on the oldest Python found: everything that needs no torch must work there.
CORE := not torch and not accept and not once
test-core: .venv-core/.ready
	.venv-core/bin/python -m pytest -q $(WORKERS) -m "$(CORE) and not alone"
	.venv-core/bin/python -m pytest -q -m "$(CORE) and alone"

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
	rm -rf build $(VENV) .venv-core demo

# Every command of development; plain `make` lists them. All that they need is made in
# .venv and build/, with packages from the ordinary registries.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
JOBS ?= $(shell nproc)
# Files of tests at once: half of their time they wait. 0: one after the other, and by the
# process that is looked at.
TESTERS ?= 2
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo build gen lock test screenshots chaos test-gpu test-c bench bench-compare bench-keep man deb rpm test-packages lint fix check clean tools

help:  ## what can be made
	@grep -E '^[a-z -]+:.*##' $(firstword $(MAKEFILE_LIST)) | \
	    sed -E 's/^([a-z -]+):.*## (.*)/  make \1#\2/' | column -t -s '#'

tools:
	@PYTHON=$(PYTHON) .ci/tools

$(BIN)/python: | tools
	$(PYTHON) -m venv $(VENV)

# Everything the product needs, installed so that the working tree is what runs.
$(VENV)/.installed: pyproject.toml setup.py | $(BIN)/python
	$(PIP) install --upgrade pip 'setuptools>=77' 'Cython>=3.1'
	FD_BUILD_JOBS=$(JOBS) $(PIP) install --no-build-isolation -e .
	@touch $@

# gpustat comes as source, whose build needs setuptools-scm.
$(VENV)/.test: $(VENV)/.installed
	@PYTHON=$(PYTHON) .ci/tools test
	$(PIP) install 'setuptools-scm>=8'
	FD_BUILD_JOBS=$(JOBS) $(PIP) install --no-build-isolation -e '.[test,cuda,web]'
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(PIP) install 'ruff>=0.8' 'mypy>=1.13' 'clang-format>=19'
	@touch $@

$(VENV)/.bench: $(VENV)/.test
	$(PIP) install 'pytest-benchmark>=5' 'matplotlib>=3.8' 'numba>=0.60'
	@touch $@

demo: build  ## a CUDA program on this machine's GPU, or on the CPU device
	@mkdir -p build/demo
	$(CC) -O2 -Wall -Wextra -o build/demo/demo_driver tests/e2e/apps/demo_driver.c -ldl
	$(BIN)/flexdirect local build/demo/demo_driver

build: $(VENV)/.installed  ## the C libraries, the Cython modules, all installed in .venv
	@FD_BUILD_JOBS=$(JOBS) $(BIN)/python setup.py --quiet build_ext --inplace

gen: | $(BIN)/python  ## what csrc/spec describes, written into build/gen
	$(MAKE) -C csrc gen PYTHON=$(abspath $(BIN))/python

lock: | $(BIN)/python  ## accept the wire's changes into csrc/spec/wire.lock
	$(BIN)/python csrc/specgen --out build/gen --lock

test: $(VENV)/.test build  ## every test that needs no GPU (ARGS='-k name' for pytest)
	$(BIN)/python -m pytest -m 'not gpu' -n $(TESTERS) --dist loadfile \
	    --no-loadscope-reorder $(ARGS)

screenshots: $(VENV)/.test build  ## the manager's pages as pictures, into build/screenshots
	$(BIN)/python -m tests.fdcore.web.pictures build/screenshots

chaos: $(VENV)/.test build  ## what runs, its roads and stores hurt at random (SEED=, RUNS=, STEPS=, ETCD=1)
	$(BIN)/python -m tests.chaos.test_chaos $(if $(SEED),--seed $(SEED)) \
	    $(if $(RUNS),--runs $(RUNS)) $(if $(STEPS),--steps $(STEPS)) \
	    $(if $(ETCD),--etcd)

test-gpu: build  ## what is assumed of a driver, asked of this machine's (DRIVER=path)
	$(CC) -Icsrc/include -Ibuild/gen -o build/assumptions tests/gpu/assumptions.c \
	    -ldl -lpthread
	build/assumptions $(DRIVER)

test-c: | $(BIN)/python  ## the C tests alone (SAN=address|undefined|thread, T=ring)
	$(MAKE) -C csrc -j$(JOBS) test-c PYTHON=$(abspath $(BIN))/python

bench: $(VENV)/.bench build  ## the benchmarks: table, JSON and plot into build/bench
	$(BIN)/python -m pytest -q bench --benchmark-columns=min,median,max,rounds $(ARGS)

bench-compare: | $(BIN)/python  ## the last run against bench/baselines/cpu_device.json
	$(BIN)/python -m bench.report bench/baselines/cpu_device.json build/bench/results.json

bench-keep:  ## the last run becomes the baseline, and the plot in the README
	cp build/bench/results.json bench/baselines/cpu_device.json
	cp build/bench/results.md bench/baselines/cpu_device.md
	cp build/bench/results.png docs/bench.png

man: build  ## manual pages and shell completion, from the parsers, into build/share
	$(BIN)/python -m install.manual build/share/man
	$(BIN)/python -m install.completion build/share

deb rpm: build  ## packages of the system, client and server, into dist
	$(BIN)/python -m install.packages $@

test-packages: $(VENV)/.test deb  ## the deb in a fresh Debian (debootstrap, root, a mirror), the unit under systemd
	$(BIN)/python -m pytest -q tests/install/debian.py tests/install/systemd.py $(ARGS)

lint: $(VENV)/.dev  ## what reading the sources alone can find
	$(BIN)/ruff check .
	$(BIN)/ruff format --check fdcore cli
	@mkdir -p build/mypy
	@ln -sfn ../../cli build/mypy/fdcore_cli
	$(BIN)/mypy

fix: $(VENV)/.dev  ## format, and mend what can be mended by machine
	$(BIN)/ruff check --fix-only --quiet . || true
	$(BIN)/ruff format --quiet fdcore cli

check: lint test  ## what has to pass before a change goes in

clean:  ## everything that was made here, but .venv
	rm -rf build fdcore/lib fdcore/_core/*.so

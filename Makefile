# make demo   the main job on a real clip
# make test   the tests
# make train  the weights that ship
# The first run of either makes .venv; a second run is quick.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
TOOLS  := .venv-supply
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Exact versions with hashes, of everything (docs/supply-chain.md). 'make LOCK= demo' takes the newest that pyproject.toml allows.
LOCK   ?= supply/locks
SETUP  := pyproject.toml setup.py supply/install.py $(wildcard $(LOCK:=/*.txt))
EXTRAS_demo := export,report,train
EXTRAS_test := $(EXTRAS_demo),test,dev

.PHONY: demo test test-gpu test-fast lint format typecheck bench sweep precision train train-frame train-video train-causal \
	lock licences sbom audit wheel clean

demo: $(VENV)/demo.ready
	$(BIN)/diffpose-edge demo --out demo

test: $(VENV)/test.ready
	$(BIN)/python -m pytest -m "not gpu" -n 2 --dist worksteal

# On a PC with an NVIDIA GPU; a test that finds none fails. On a Jetson and on a bare machine: benchmarks/gpu.sh.
test-gpu: $(VENV)/test.ready
	DIFFPOSE_REQUIRE_GPU=1 $(BIN)/python -m pytest -m gpu tests/gpu

test-fast: $(VENV)/test.ready
	$(BIN)/python -m pytest -m "not slow and not gpu" -n 2 --dist worksteal

lint: $(VENV)/test.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/test.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What is checked is the installed package: in the checkout its parts lie in folders that a type checker does not join.
typecheck: $(VENV)/test.ready
	rm -rf build
	$(PIP) --no-deps --no-build-isolation --target build/installed .
	cd build && MYPYPATH=installed ../$(BIN)/mypy --config-file ../pyproject.toml -p diffpose_edge

# The runtime beside what one would take instead, into benchmarks/results/. Ten minutes, on a machine that does nothing else.
bench: $(VENV)/test.ready
	$(BIN)/diffpose-edge bench peers --samples 1 --samples 5 --samples 20 --steps 50 --threads 1 --rounds 30 --precision int8 \
		--out benchmarks/results/peers.json

# Accuracy against latency over N and K, into benchmarks/results/.
sweep: $(VENV)/demo.ready
	$(BIN)/python -m diffpose_edge.benchmarks.accuracy_sweep --pair frame
	$(BIN)/python -m diffpose_edge.benchmarks.accuracy_sweep --pair video

# What FP16 and INT8 cost in millimetres, into benchmarks/results/.
precision: $(VENV)/demo.ready
	$(BIN)/python -m diffpose_edge.benchmarks.precision_accuracy

# The weights that ship, from the shipped motion capture. `make -j2 train` takes two pairs at once, on a core each: two hours
# and a half (docs/training.md). Stop it and go on as you like.
train: train-frame train-video train-causal

# It begins with the video pair's weights.
train-causal: train-video

train-frame train-video train-causal: train-%: $(VENV)/demo.ready
	$(BIN)/diffpose-edge train $* --threads 1 --out training/$*
	mkdir -p diffpose_edge/weights/$*
	cp training/$*/context.safetensors training/$*/denoiser.safetensors diffpose_edge/weights/$*/

$(VENV)/demo.ready: $(SETUP)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "diffpose-edge needs Python 3.10 or newer; name one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (PyTorch is large: the first time takes minutes)"
	$(call install,demo)
	touch $@

$(VENV)/test.ready: $(VENV)/demo.ready
	$(call install,test)
	touch $@

ifeq ($(LOCK),)
install = $(PIP) setuptools wheel && $(PIP) --editable '.[$(EXTRAS_$(1))]'
else
install = $(BIN)/python -m supply.install $(1)
endif

# The lock files from pyproject.toml; what they have stays. Newer versions: make lock UPGRADE=--upgrade
lock: $(TOOLS)/supply.ready
	$(TOOLS)/bin/python -m supply.lock $(UPGRADE)

# Held by tests to be of the lock files (docs/supply-chain.md).
licences: $(TOOLS)/supply.ready $(VENV)/test.ready
	$(TOOLS)/bin/python -m supply.licences

sbom: $(TOOLS)/supply.ready $(VENV)/test.ready
	$(TOOLS)/bin/python -m supply.sbom

# Against the index, and for known vulnerabilities where their service can be reached.
audit: $(TOOLS)/supply.ready
	$(TOOLS)/bin/python -m supply.audit

# Of the last commit, the same bytes wherever it is built, into dist/.
wheel: $(VENV)/test.ready
	$(BIN)/python -m supply.wheels

$(TOOLS)/supply.ready: supply/locks/supply.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement $<
	touch $@

clean:
	rm -rf $(VENV) $(TOOLS) build demo dist *.egg-info

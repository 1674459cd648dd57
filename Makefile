# Each target makes .venv on its own when there is none.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo figures test test-slow docs check setup clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/vqrae demo

# The README's picture and table, and the tables of docs/figures/benchmarks.md, are the demo's.
figures: demo
	cp demo/reconstruction.png docs/figures/
	sed -i -e '/<!-- figures/,/<!-- end of figures/{//!d}' -e '/<!-- figures/r demo/benchmark.md' docs/figures/benchmarks.md
	sed -i -e '/<!-- figures/,/<!-- end of figures/{//!d}' -e '/<!-- figures/r demo/summary.md' README.md

# A file's tests stay together, since they share what was built for them; the files come in the order of conftest.py. A
# process that dies ends the run, which names its test: one that takes its place may wait for ever.
PYTEST := $(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --max-worker-restart 0

test: $(STAMP)
	$(PYTEST) -m 'not slow'

# The browser is given the demo's bundles too.
test-slow: $(STAMP)
	.ci/chromium
	test -d demo || $(MAKE) demo
	$(PYTEST) -m slow --timeout 900 --override-ini faulthandler_timeout=930

# The floors lie side by side in the tree and nest inside `vqrae` when imported (pyproject.toml, package-dir). mypy and
# import-linter read paths, not import hooks, so they are given the nested view, made of links.
NESTED := build/nested
$(NESTED): $(STAMP)
	rm -rf $@ && mkdir -p $@/vqrae
	ln -s $(CURDIR)/vqrae/* $(foreach floor,runtimes calibration export benchmarks,$(CURDIR)/$(floor)) $@/vqrae/

.PHONY: $(NESTED)

# The variable silences an advertisement for the successor of the theme.
docs: $(NESTED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

check: $(NESTED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd $(NESTED) && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache
	cd $(NESTED) && $(CURDIR)/$(BIN)/lint-imports --config $(CURDIR)/pyproject.toml

clean:
	rm -rf .venv build demo *.egg-info

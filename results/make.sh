# The committed results, all-MiniLM-L6-v2 on the report's data set: results/minilm.md and results/minilm.png.
# Run it as `make results`, or `make results DATA=youtube.csv` where the data set cannot be downloaded.
set -e
PY=${PY:-python} DATA=${DATA:-youtube} FEATURES=features-results OUT=results/minilm

$PY extract.py --data "$DATA" --model minilm --layers all --pooling cls mean --out $FEATURES
train() { $PY train.py --features $FEATURES --results $OUT "$@"; }
train                                                     # the report's six sets
train --each                                              # every layer alone
train --each --standardize
train --each --standardize --pooling mean
train --each --standardize --reduction none               # the report says that the full width is too easy
for layers in "-1 -2" "-1 -2 -3 -4" all; do               # was the report's fusion too weak?
    for fusion in conv mix concat; do
        train --layers $layers --standardize --fusion $fusion
    done
done
$PY train.py --features $FEATURES --results $OUT-random --split random     # the report's kind of split
for seed in 1 2; do                                                        # how much is luck?
    $PY train.py --features $FEATURES --results $OUT-seeds --layers -1 --seed $seed
    $PY train.py --features $FEATURES --results $OUT-seeds --layers -1 --seed $seed --split random
done
$PY extract.py --data "$DATA" --model minilm --layers all --dtype float32 --out $FEATURES-float32
$PY train.py --features $FEATURES-float32 --results $OUT-float32 --each --standardize

{
    echo "# Measured: all-MiniLM-L6-v2 on the report's data set"
    echo
    echo "Made by \`make results\`, that is [make.sh](make.sh), on $(date -u +%Y-%m-%d): $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)," \
        "$(nproc) cores, $($PY -c 'import platform; print("Python", platform.python_version())'), $($PY -m pip list --format=freeze \
        | grep -E '^(numpy|pandas|torch|transformers|scikit-learn)==' | tr '\n' ' ')."
    echo
    echo "# All rows, grouped folds"
    echo
    $PY evaluate.py --results $OUT --baselines --verify --plot results/minilm.png
    echo "# The report's six sets on random folds, copies of titles on both sides"
    echo
    $PY evaluate.py --results $OUT-random --baselines --verify
    echo "# The last layer with other seeds"
    echo
    $PY evaluate.py --results $OUT-seeds --verify
    echo "# Single layers, standardised, from features computed in float32 instead of bfloat16"
    echo
    $PY evaluate.py --results $OUT-float32 --verify
} > results/minilm.md.new
mv results/minilm.md.new results/minilm.md

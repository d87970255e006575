# The committed results on the report's titles: results/youtube.md with its pictures, for a small and a large encoder.
# Run it as `make results`, with MODELS="SMALL LARGE" for other encoders and DATA=youtube.csv without a network.
set -e
PY=${PY:-python} DATA=${DATA:-youtube} MODELS=${MODELS:-minilm sentence-transformers/all-mpnet-base-v2}
OUT=results/youtube FEATURES=

for MODEL in $MODELS; do
    LARGE=features-$(basename "$MODEL")
    FEATURES="$FEATURES $LARGE"
    $PY extract.py --data "$DATA" --model "$MODEL" --layers all --pooling cls mean --out "$LARGE"
done
train() { out=$1; shift; $PY train.py --results "$out" "$@"; }

train "$OUT-report" --features "$LARGE" --pooling cls                        # the report's six sets, as they are
train "$OUT-random" --features "$LARGE" --pooling cls --split random         # copies on both sides of the split
train "$OUT-heads" --features "$LARGE" --pooling cls --standardize           # was it the head, or the layers?
for fusion in mix concat; do                                                 # was the report's fusion too weak?
    train "$OUT-heads" --features "$LARGE" --pooling cls --layers -1 -2 -3 -4 --standardize --fusion $fusion
done
train "$OUT" --features $FEATURES --survey                                   # the linear probe, on both encoders
train "$OUT" --features $FEATURES --pooling mean --layers -1 --head linear --labels 8 16 32 64 128 256

table() { echo "# $1"; echo; shift; $PY evaluate.py --quiet "$@"; }
{
    echo "# Measured on the report's titles"
    echo
    echo "Made by \`make results\`, that is [make.sh](make.sh), on $(date -u +%Y-%m-%d):" \
        "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc --all) cores," \
        "$($PY -c 'import platform; print("Python", platform.python_version())')," \
        "$($PY -m pip list --format=freeze | grep -E '^(numpy|pandas|torch|transformers|scikit-learn)==' | paste -sd ' ' -)."
    echo
    table "The report's six rows" --results "$OUT-report" --baselines
    table "The same on random folds, copies of a title on both sides" --results "$OUT-random"
    table "The same, standardised, and with other fusions" --results "$OUT-heads"
    table "Both encoders, every layer, both poolings, few labels" --results "$OUT" --baselines --plot "$OUT.png"
} > "$OUT.md.new"
mv "$OUT.md.new" "$OUT.md"

# The committed results on the report's titles: results/NAME.md with its pictures, for one encoder.
# Run it as `make results`, with MODEL=… for another encoder than minilm and DATA=youtube.csv without a network.
set -e
PY=${PY:-python} DATA=${DATA:-youtube} MODEL=${MODEL:-minilm}
NAME=$(basename "$MODEL")
FEATURES=features-$NAME OUT=results/$NAME

$PY extract.py --data "$DATA" --model "$MODEL" --layers all --pooling cls mean --out "$FEATURES"
train() { out=$1; shift; $PY train.py --features "$FEATURES" --results "$out" "$@"; }

train "$OUT-report" --pooling cls                                   # the report's six sets, as they are
for pooling in mean cls; do
    train "$OUT" --pooling $pooling --each --head linear            # the linear probe on every layer
done
train "$OUT" --pooling cls mean --layers all --head linear          # and on all of them side by side
for layer in -1 1; do                                               # how many labels does it take?
    train "$OUT" --pooling mean --layers $layer --head linear --labels 8 16 32 64 128 256 all
done
if [ "$MODEL" != minilm ]; then                                     # the small encoder leaves these to the large one
    train "$OUT-random" --pooling cls --split random                # copies of a title on both sides of the split
    train "$OUT" --pooling cls --standardize                        # was it the head, or the layers?
    for fusion in mix concat; do                                    # was the report's fusion too weak?
        train "$OUT" --pooling cls --layers -1 -2 -3 -4 --standardize --fusion $fusion
    done
    train "$OUT" --pooling mean --layers -1 -2 -3 -4 --head linear   # does the probe gain from several layers?
fi
if [ "$MODEL" = minilm ]; then                                      # does half the precision cost anything?
    for dtype in float32 bfloat16; do
        $PY extract.py --data "$DATA" --model "$MODEL" --dtype $dtype --pooling mean --out "$FEATURES-$dtype"
        $PY train.py --features "$FEATURES-$dtype" --results "$OUT-$dtype" --each --head linear
    done
fi

table() { echo "# $1"; echo; shift; $PY evaluate.py --verify --quiet "$@"; }
{
    echo "# Measured: $NAME on the report's titles"
    echo
    echo "Made by \`make results MODEL=…/$NAME\`, that is [make.sh](make.sh), on $(date -u +%Y-%m-%d):" \
        "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores," \
        "$($PY -c 'import platform; print("Python", platform.python_version())')," \
        "$($PY -m pip list --format=freeze | grep -E '^(numpy|pandas|torch|transformers|scikit-learn)==' | tr '\n' ' ')."
    echo
    table "The report's six rows" --results "$OUT-report" --baselines
    [ "$MODEL" = minilm ] ||
        table "The same on random folds, copies of a title on both sides" --results "$OUT-random" --baselines
    table "Every layer, both heads, few labels" --results "$OUT" --baselines --plot "$OUT.png"
    if [ "$MODEL" = minilm ]; then
        for dtype in float32 bfloat16; do
            table "Features computed in $dtype" --results "$OUT-$dtype"
        done
    fi
} > "$OUT.md.new"
mv "$OUT.md.new" "$OUT.md"

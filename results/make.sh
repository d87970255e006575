# The committed results: all-MiniLM-L6-v2 on the report's data set. Run it as `make results`.
set -e
PY=${PY:-python} DATA=${DATA:-youtube} WORK=features-results OUT=results/minilm
head=$(mktemp); trap 'rm -f "$head"' EXIT

$PY extract.py --data "$DATA" --model minilm --layers all --pooling cls mean --out $WORK

$PY train.py --features $WORK --results $OUT                                    # the report's six sets
$PY train.py --features $WORK --results $OUT --each                             # every layer alone
$PY train.py --features $WORK --results $OUT --each --standardize
$PY train.py --features $WORK --results $OUT --each --standardize --pooling mean
$PY train.py --features $WORK --results $OUT --each --standardize --reduction none
for layers in "-1 -2" "-1 -2 -3 -4" all; do                                     # was the report's fusion too weak?
    for fusion in conv mix concat; do
        $PY train.py --features $WORK --results $OUT --layers $layers --standardize --fusion $fusion
    done
done
$PY train.py --features $WORK --results $OUT --layers -1 --split random         # the report's kind of split
$PY evaluate.py --results $OUT --baselines --verify --plot results/minilm.png > results/minilm.md.new

# the same six sets and layers from float32 features: does bfloat16 cost anything?
$PY extract.py --data "$DATA" --model minilm --layers all --dtype float32 --out $WORK-float32
$PY train.py --features $WORK-float32 --results $OUT-float32 --each --standardize
$PY evaluate.py --results $OUT-float32 > results/minilm-float32.md.new
mv results/minilm.md.new results/minilm.md
mv results/minilm-float32.md.new results/minilm-float32.md

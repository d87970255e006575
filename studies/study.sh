# The study: what simple rules lose on test titles, over data sets and encoders. results/study.md and results/study.png.
# Run it as `make study DATA=FOLDER`; FOLDER holds NAME.csv, and NAME-test.csv where there is an official test file,
# each with the columns title and category. MODELS="SMALL LARGE" names other encoders, SETS="NAME …" fewer sets.
# What is there already is not made again. About an hour on two cores, for eight sets of up to 3,000 titles.
set -e
PY=${PY:-python} MODELS=${MODELS:-minilm sentence-transformers/all-mpnet-base-v2} REPEATS=${REPEATS:-1}
OUT=${OUT:-results/study}

$PY -m studies.study titles "$1" "$OUT"
for SET in ${SETS:-$(ls "$OUT")}; do
    FOLDER=$OUT/$SET FEATURES=
    for MODEL in $MODELS; do
        FEATURES="$FEATURES $FOLDER/features-$(basename "$MODEL")"
        $PY extract.py --data "$FOLDER/train.csv" --model "$MODEL" --layers all \
            --out "$FOLDER/features-$(basename "$MODEL")"
    done
    train() { $PY train.py --features $FEATURES --results "$FOLDER/runs" --repeats "$REPEATS" "$@"; }
    train --survey
    # what the survey leaves out, to see whether it should
    train --head linear --pooling cls --layers all
    train --head linear --pooling cls --layers -1 -2 -3 -4
    train --head linear --pooling mean --layers -1 -2 -3 -4 --labels 8 32
    train --head linear --pooling mean --layers -1 -2 -3 -4 --labels 128 || [ $? = 2 ] # of small categories
    $PY evaluate.py --results "$FOLDER/runs" --baselines > "$FOLDER/table.md"
    $PY -m studies.study score "$FOLDER"
    # the same figures as a user gets them
    $PY predict.py --run $($PY -m studies.study recommended "$FOLDER") --csv "$FOLDER/test.csv" \
        --label-column category > "$FOLDER/test.md"
done
{
    echo "# Which layers, in general"
    echo
    echo "Made by \`make study DATA=FOLDER\`, that is [study.sh](../studies/study.sh), on $(date -u +%Y-%m-%d):" \
        "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc --all) cores," \
        "$($PY -c 'import platform; print("Python", platform.python_version())')," \
        "$($PY -m pip list --format=freeze | grep -E '^(numpy|pandas|torch|transformers|scikit-learn|transformer-ranker)==' | paste -sd ' ' -)."
    echo
    $PY -m studies.summary "$OUT" --plot results/study.png
} > results/study.md.new
mv results/study.md.new results/study.md

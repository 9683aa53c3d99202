# Everything is set up in .venv of this checkout, and nothing twice: a stamp file marks each step
# that is done. Needed on the machine: Python 3.11 (make PYTHON=... where python3 is another one),
# a C++ compiler and make.
PYTHON ?= python3
MODEL ?= centerpoint
CONFIG_centerpoint := configs/centerpoint/centerpoint_voxel02_second_secfpn_1xb4-onecycle-8e_nus-generated-3d.py
CONFIG_bevfusion := configs/bevfusion/bevfusion_lidar-cam_voxel02_second_secfpn_1xb2-onecycle-4e_nus-generated-3d.py
CONFIG_sparse4d := configs/sparse4d/sparse4dv3_temporal_r18_1x1_bs1_128x352_nus-generated.py
# One core computes, the other prepares the images.
THREADS_sparse4d := OMP_NUM_THREADS=1
# The same weights once more, no frame knowing the one before it.
SINGLE_FRAME_sparse4d := model.head.instance_bank.max_time_interval=-1
CONFIG ?= $(CONFIG_$(MODEL))
DATA ?= data/nuscenes-generated
WORK_DIR ?= work_dirs/$(basename $(notdir $(CONFIG)))

BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check
STAMP := .venv/.stamp-
NATIVE := $(shell find csrc tests -name "*.cpp" -o -name "*.h")
CPU_NATIVE := $(wildcard csrc/ops/*.* csrc/ops/cpu/*.*)
PACKAGES := $(abspath .venv)/lib/python3.11/site-packages
TORCH := $(shell sed -n "s/^torch==//p" requirements/build.txt)
TESTS ?= tests/ops tests/modules tests/mmcv_registry
SANITIZERS = MXD_CPU_LIBRARY=$(abspath build/sanitize/mxd_mmplugin/_C.so) OMP_NUM_THREADS=2 \
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=4096 UBSAN_OPTIONS=print_stacktrace=1 \
    LD_PRELOAD="$(shell $(CXX) -print-file-name=libasan.so) $(shell $(CXX) -print-file-name=libstdc++.so.6)"
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

# Tests run in two processes of one thread each, file by file, the longest first; the processes
# share the generated data set (tests/conftest.py).
TEST_DATA := $(abspath build/test-data)
PYTHON_TESTS := OMP_NUM_THREADS=1 MXD_TEST_DATA=$(TEST_DATA) $(BIN)/python
TWO := -n 2 --dist loadfile --no-loadscope-reorder

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: unit sanitize devcheck docs help venv train data test lint bench softnpu compat clean

help:  ## show this help
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP)package $(STAMP)runtime $(STAMP)test  ## install everything, the test tools too

train: $(STAMP)package $(DATA)/sparse4d_anchors.npy  ## train and evaluate on generated scenes: MODEL=centerpoint, bevfusion or sparse4d
	$(THREADS_$(MODEL)) $(BIN)/python tools/train.py $(CONFIG) --work-dir $(WORK_DIR)
	$(if $(SINGLE_FRAME_$(MODEL)),$(BIN)/python tools/test.py $(CONFIG) "$$(cat $(WORK_DIR)/last_checkpoint)" \
	    --work-dir $(WORK_DIR)/single_frame --cfg-options $(SINGLE_FRAME_$(MODEL)))
	$(BIN)/python tools/test.py $(CONFIG) "$$(cat $(WORK_DIR)/last_checkpoint)" --work-dir $(WORK_DIR)
	@echo
	@echo "data        $(DATA)"
	@echo "checkpoint  $$(cat $(WORK_DIR)/last_checkpoint)"
	@echo "pictures    $(WORK_DIR)/pictures"
	@echo "logs        $$(ls -td $(WORK_DIR)/20*/ | head -n 2 | paste -sd ' ')(test, training)"

data: $(DATA)/sparse4d_anchors.npy  ## generate the nuScenes-format scenes and their info files

test: lint softnpu $(STAMP)package $(STAMP)runtime .rivals/.stamp  ## check the style and run all tests
	rm -rf $(TEST_DATA)
	status=0; \
	    $(PYTHON_TESTS) -m pytest $(TWO) --ignore tests/npu || status=1; \
	    $(PYTHON_TESTS) -m tests.npu $(TWO) || status=1; \
	    exit $$status

unit: $(STAMP)package $(STAMP)runtime $(STAMP)test  ## run the tests of operators and layers, with no software NPU and no rivals
	$(PYTHON_TESTS) -m pytest $(TWO) tests/ops tests/modules tests/mmcv_registry tests/test_*.py

# PyTorch and Python free nothing at exit: leaks are not looked for. C++ exceptions pass only where
# libstdc++ is there before ASan begins.
sanitize: $(STAMP)package $(STAMP)runtime $(STAMP)test  ## run the operators' tests on a C++ library built with ASan and UBSan (TESTS=tests/ops for those alone)
	$(BIN)/python setup.py -q build_ext --sanitize
	$(SANITIZERS) $(BIN)/python -m tests.ops.random_calls --memory 0
	$(SANITIZERS) $(BIN)/python -m pytest $(TESTS)

# mypy reads the types of torch.
lint: $(STAMP)build $(STAMP)test  ## check the style of the Python and C++ sources, and the types of Python
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(NATIVE)

bench: $(STAMP)package $(STAMP)runtime .rivals/.stamp  ## time the operators beside their rivals (BENCH='voxelize --shapes large')
	PYTHONPATH=.rivals $(BIN)/mxd bench $(BENCH)

devcheck:  ## read the kernels as CANN's device compiler would: CANN=DIR, its installation or headers; needs clang-19
	sh tools/devcheck/check.sh csrc/kernels $(CANN)

softnpu: .softnpu/.stamp  ## build the software NPU, on which the NPU path runs with no NPU (mxd softnpu)

docs: $(STAMP)package $(STAMP)runtime .docs/.stamp  ## build the pages of docs/ and the API's into build/docs
	PYTHONPATH=.docs $(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo 'build/docs/index.html'

compat:  ## run the operators' tests on another torch: TORCH=2.7.1 [PYTHON=python3.10] [COMPAT=--without-mmcv-ops]
	$(PYTHON) tools/compat.py $(TORCH) $(COMPAT)

clean:  ## remove what was built; .venv, .rivals, .softnpu/site, .compat, data and work_dirs stay
	rm -rf build $(filter-out .softnpu/site,$(wildcard .softnpu/*)) .softnpu/.stamp .softnpu/.ninja* *.egg-info mxd_mmplugin/*.so $(STAMP)package .pytest_cache .hypothesis .mypy_cache .ruff_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and \
	    "Python 3.11 is needed, not %d.%d: make PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv

# An index may serve a torch for CUDA: with --no-deps it has none of CUDA's libraries, and its import
# fails. PyTorch's own index has the build for CPUs.
$(STAMP)build: requirements/build.txt | $(BIN)/python
	$(PIP) install --quiet --no-deps -r $<
	@$(BIN)/python -c 'import torch; exit(bool(torch.version.cuda) and not torch.cuda.is_available())' 2> /dev/null || { \
	    echo 'This torch is not for a CPU: torch==$(TORCH)+cpu is installed from PyTorch itself.'; \
	    $(PIP) install --quiet --no-deps --index-url $(TORCH_CPU_INDEX) torch==$(TORCH)+cpu; }
	$(BIN)/python -c 'import torch'
	@touch $@

# Several minutes. A wheel of mmcv is good for one torch only, hence a cache folder for each.
$(STAMP)mmcv: requirements/mmcv.txt $(STAMP)build
	@echo 'Compiling the ops of mmcv: about 8 minutes on two cores.'
	MMCV_WITH_OPS=1 FORCE_CUDA=0 $(PIP) install --quiet --force-reinstall --no-deps \
	    --no-build-isolation -r $< \
	    --cache-dir $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/mxd_mmplugin/mmcv-torch-$(TORCH)
	@touch $@

$(STAMP)runtime: requirements/runtime.txt $(STAMP)build $(STAMP)mmcv
	$(PIP) install --quiet --no-deps -r $<
	@touch $@

$(STAMP)test: requirements/test.txt | $(BIN)/python
	$(PIP) install --quiet --no-deps -r $<
	@touch $@

$(STAMP)package: setup.py pyproject.toml $(CPU_NATIVE) $(STAMP)build
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

# Stays empty on a processor that no rival has a wheel for.
.rivals/.stamp: requirements/bench.txt | $(BIN)/python
	rm -rf .rivals
	mkdir .rivals
	$(PIP) install --quiet --no-deps --target .rivals -r $<
	@touch $@

.docs/.stamp: requirements/docs.txt | $(BIN)/python
	rm -rf .docs
	$(PIP) install --quiet --no-deps --target .docs -r $<
	@touch $@

.softnpu/site/.stamp: requirements/softnpu.txt | $(BIN)/python
	rm -rf .softnpu/site
	$(PIP) install --quiet --no-deps --target .softnpu/site -r $<
	@touch $@

# mmcv's and torch_npu's headers are compiled against: their packages come first.
.softnpu/.stamp: $(NATIVE) $(shell find csrc -name "CMakeLists.txt" -o -name "*.cmake" -o -name "*.py") \
    .softnpu/site/.stamp $(STAMP)runtime
	PYTHONPATH=.softnpu/site .softnpu/site/bin/cmake -S csrc -B .softnpu -G Ninja \
	    -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) -DPython3_EXECUTABLE=$(abspath $(BIN)/python) \
	    -DTORCH_DIR=$(PACKAGES)/torch \
	    -DTORCH_NPU_DIR=$(abspath .softnpu/site/torch_npu) > /dev/null
	$(BIN)/ninja -C .softnpu
	@touch $@

$(DATA)/.stamp-scenes: $(wildcard mxd_mmplugin/datasets/synth/*.py) | $(STAMP)package $(STAMP)runtime
	$(BIN)/mxd synth --out $(DATA) --scenes 10 --seed 0
	@touch $@

$(DATA)/nuscenes_dbinfos_train.pkl: $(DATA)/.stamp-scenes
	$(BIN)/python tools/create_data.py nuscenes --root-path $(DATA) --out-dir $(DATA) \
	    --extra-tag nuscenes --version v1.0-mini

$(DATA)/sparse4d_anchors.npy: $(DATA)/nuscenes_dbinfos_train.pkl
	$(BIN)/mxd sparse4d-infos --root $(DATA) --version v1.0-mini $(DATA)/nuscenes_infos_train.pkl $(DATA)/nuscenes_infos_val.pkl
	$(BIN)/mxd sparse4d-anchors $(DATA)/nuscenes_infos_train.pkl --num 300 --range 40 --out $@

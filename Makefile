# Two commands for a stranger: `make demo` and `make test`.
PYTHON ?= python3
VENV := $(CURDIR)/.venv
BIN := $(CURDIR)/target/debug/jupyterflow
DEMO := target/demo
export PATH := $(VENV)/bin:$(PATH)

.PHONY: demo test test-cluster static image check kill soak soak-short fuzz fuzz-short bench bench-short clean

# A real pipeline of real notebooks, to its end. Typed again it starts nothing; edit a code cell
# below $(DEMO) and it runs again.
demo: $(VENV)/.demo
	cargo build --quiet
	@[ -d $(DEMO) ] || cp -r examples/digits $(DEMO)
	@echo "The pipeline is in $(DEMO): edit a code cell there and type make demo again."
	$(BIN) up --once $(DEMO)

# All that the tests need is installed here, or said to be missing. The first part is on this machine alone, the
# second on a real cluster, which is started for it. Tests wait more than they work: more run at a time than there are
# processors.
test: $(VENV)/.test
	tests/install $(VENV)
	RUST_TEST_THREADS=3 cargo test --quiet --no-fail-fast
	$(MAKE) --no-print-directory test-cluster

test-cluster: $(VENV)/.test
	tests/cluster/with sh -c 'cargo test --quiet --no-fail-fast --test cluster -- --skip alone:: --test-threads=4 && \
		cargo test --quiet --no-fail-fast --test cluster alone:: -- --test-threads=1'

# The program as one static file, as it goes into the pods of a cluster.
static:
	OPENSSL_STATIC=1 RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --target x86_64-unknown-linux-gnu
	@echo target/x86_64-unknown-linux-gnu/release/jupyterflow

# The image of the manifests, with that file and the certificates of the usual authorities; `ctr images import`,
# `docker load` and `skopeo copy docker-archive:` take it.
image: static
	tests/cluster/mkimage jupyterflow/jupyterflow:dev target/jupyterflow.tar --entrypoint /jupyterflow --user 65532 \
		target/x86_64-unknown-linux-gnu/release/jupyterflow=/jupyterflow \
		/etc/ssl/certs/ca-certificates.crt=/etc/ssl/certs/ca-certificates.crt
	@echo target/jupyterflow.tar

# What CI checks besides.
check:
	cargo fmt --check
	cargo clippy --quiet --all-targets -- -D warnings
	cargo clippy --quiet --test cluster -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps --document-private-items

# SIGKILL at every write and in a thousand rounds of real processes; a thousand simulated rounds of all
# that can go wrong. An hour or so.
kill: $(VENV)/.test
	tests/install $(VENV)
	ROUNDS=1000 cargo test --test sim -- --nocapture
	KILL_ROUNDS=500 KILL_WRITES=all cargo test --test kill -- --nocapture

# A thousand notebooks in a row, some of which fail, hang, die or are killed; some minutes.
soak: $(VENV)/.test
	cargo build --quiet
	tests/soak $(BIN) 1000

soak-short: $(VENV)/.test
	cargo build --quiet
	tests/soak $(BIN) 64

# Notebooks, messages and parameters of any bytes, an hour each, side by side.
fuzz:
	fuzz/run 3600

fuzz-short:
	fuzz/run 20

# Side by side with what a user would pick instead; some minutes.
bench: $(VENV)/.bench
	benches/run

# The same in a minute, on the development build: shows that everything still runs.
bench-short: $(VENV)/.bench
	benches/run --short

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: examples/requirements.txt | $(VENV)/bin/pip
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

$(VENV)/.test: tests/requirements.txt $(VENV)/.demo
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r $<
	$(VENV)/bin/python -m bash_kernel.install --sys-prefix
	tests/kernels $(VENV)
	touch $@

$(VENV)/.bench: benches/requirements.txt benches/exec-requirements.txt benches/buildbot-requirements.txt $(VENV)/.test
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r $<
	[ -d $(VENV)/exec ] || $(PYTHON) -m venv $(VENV)/exec
	$(VENV)/exec/bin/pip install --quiet --disable-pip-version-check -r benches/exec-requirements.txt
	[ -d $(VENV)/buildbot ] || $(PYTHON) -m venv $(VENV)/buildbot
	$(VENV)/buildbot/bin/pip install --quiet --disable-pip-version-check -r benches/buildbot-requirements.txt
	touch $@

clean:
	rm -rf $(DEMO)

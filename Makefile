# make demo: see it work.  make test: run the tests.  Both set up what they need.

PYTHON ?= python3
# An environment into which `pip install .` has put ktcpvs, as the README does, stays as it is: a daemon may run from it.
VENV ?= $(if $(wildcard .venv/lib/python3*/site-packages/ktcpvs/__init__.py),.venv-dev,.venv)
BIN = $(VENV)/bin

.PHONY: help compiled demo demo-cluster test test-all test-slow site pictures fuzz bench testssl h2spec soak soak-hostile soak-relays soak-certificates soak-http2 soak-cluster dist deb image lint clean

help:
	@echo "make demo            three web servers and the switch on loopback; the example, played through tcpvsadm"
	@echo "make demo ONESHOT=1  the same, checked, and ended at once"
	@echo "make demo-cluster    three switches with one table and three members of etcd on loopback, of which some crash; 40 seconds"
	@echo "make test            the tests, in six minutes; TESTS='tests/model -k rules' for some"
	@echo "make test-all        also those that make test leaves out: clusters, other programs, packages, load, and all examples of properties"
	@echo "make test-slow       those that both leave out: faults of a cluster, and what takes half a minute"
	@echo "make site            the documentation as a site in build/site; SITE_URL=https://docs.example/ if it is published there"
	@echo "make pictures        draws the pictures of the README; STATUS=1: those of the status page too"
	@echo "make fuzz            each fuzz target for a minute; FUZZ_SECONDS=600 for longer, TARGETS='request boxes' for some"
	@echo "make bench           the switch and its peers, measured; writes docs/benchmarks.md. QUICK=1: in two minutes; ONLY=A,E: some"
	@echo "make bench BASELINE=DIR PAGE=FILE.md   the same with another checkout beside; ROUNDS=7; ALONE=1: without the peers"
	@echo "make testssl         TLS at default settings, examined by testssl.sh; some minutes"
	@echo "make h2spec          HTTP/2 at default settings, examined by h2spec; H2SPEC=/PATH/h2spec if it is not in the PATH"
	@echo "make soak            ten minutes of load while servers, workers and daemons come and go; SECONDS=120: two minutes"
	@echo "make soak-hostile    ten minutes of hostile clients and servers beside others; SECONDS=120, SEED=1 to repeat a run"
	@echo "make soak-relays     100,000 connections through all relays, long transfers, kills, peers that do not read; 15 minutes"
	@echo "make soak-certificates   200 certificates replaced and 20 takeovers while clients connect by TLS; four minutes"
	@echo "make soak-http2      HTTP/2: bodies of 1 GiB, 1,000 edits and 20 takeovers under load, each attack by itself; ten minutes"
	@echo "make soak-cluster    four switches of a cluster under load, while members of etcd and switches crash; SECONDS=60, SEED=1 to repeat"
	@echo "make dist            an sdist and a wheel in dist/, checked"
	@echo "make deb             a package for Debian 12 or Ubuntu in dist/, with an environment of its own"
	@echo "make image           a container image, ktcpvs:VERSION, by docker, podman or buildah; BUILDER=podman chooses"
	@echo "make image BASE=NAME    the same on another image with Python, in place of that of the Dockerfile"
	@echo "make lint            ruff, mypy and import-linter"
	@echo "make clean           remove the environment and what was built"

$(VENV)/ready: setup.cfg setup.py pyproject.toml constraints.txt docs/tools/environment $(wildcard ktcpvs/*.h ktcpvs/*/*.[ch] ktcpvs/*/*/*.[ch])
	@docs/tools/environment "$(PYTHON)" "$(VENV)"
	@touch $@

# With PYTHONDONTWRITEBYTECODE set, each start of a daemon would compile every module again.
compiled: $(VENV)/ready
	@$(BIN)/python -m compileall -q ktcpvs twisted

demo: compiled
	@$(BIN)/python docs/tools/demo.py $(if $(ONESHOT),--oneshot)

demo-cluster: compiled
	@docs/tools/debian-packages etcd=etcd-server
	@$(BIN)/python docs/tools/demo_cluster.py

TESTS ?= tests
# Many tests wait, so there are three processes for each core; each has 1500 ports of its own, which are enough for eight.
# Other programs, as Chromium and the members of etcd, have several of their own, so there are two for each core with these.
PER_CORE = 3
test-all: PER_CORE = 2
JOBS ?= $(shell n=$$(($(PER_CORE) * $$(nproc))); echo $$((n > 8 ? 8 : n)))

# The pure parts need no other programs.
PURE_TESTS = tests/model% tests/protocols% tests/schedulers%
OTHER_TESTS = $(filter-out $(PURE_TESTS),$(or $(filter tests%,$(TESTS)),tests))

# What `make test` leaves out, by what the tests need, unless TESTS names them.
MORE = programs or packages or load or starts

PROGRAMS = services=netbase nginx=nginx-light redis-server redis-cli=redis-tools postgres=postgresql curl apache2=apache2-bin \
	node=nodejs zsh mandoc wrk promtool=prometheus systemd-socket-activate=systemd strace openssl gnutls-cli=gnutls-bin \
	rsyslogd=rsyslog haproxy nghttpd=nghttp2-server h2load=nghttp2-client nginx-stream=libnginx-mod-stream \
	etcd=etcd-server etcdctl=etcd-client pebble
IS_WHOLE = $(filter tests,$(TESTS))

# Each process of pytest-xdist imports every test module, for which pytest first rewrites the assertions: 12 s of CPU time
# for all of them. The byte code is kept, and made once before the processes start.
test test-all: export PYTHONDONTWRITEBYTECODE =
test: compiled $(if $(IS_WHOLE),$(VENV)/tests-compiled,$(if $(OTHER_TESTS),$(VENV)/axe-core.js))
	@$(if $(OTHER_TESTS),docs/tools/debian-packages $(PROGRAMS) $(if $(IS_WHOLE),,chromium))
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(if $(IS_WHOLE),-m "not slow and not ($(MORE))") $(TESTS)

# Also what `make test` leaves out. It tries a part of the examples of each property, and this tries all of them.
test-all: compiled $(VENV)/tests-compiled $(VENV)/axe-core.js
	@docs/tools/debian-packages $(PROGRAMS) chromium
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow" --hypothesis-profile=all tests

# Those that the marker `slow` leaves out of both: faults of a cluster, and what takes half a minute.
test-slow: compiled
	@docs/tools/debian-packages services=netbase nginx=nginx-light openssl etcd=etcd-server etcdctl=etcd-client pebble \
		curl dh=debhelper dpkg-buildpackage=dpkg-dev fakeroot ensurepip=python3-venv adduser logrotate lintian ip=iproute2
	@$(BIN)/python -m pytest -m slow tests

# The test of the status page for barriers runs it in Chromium.
$(VENV)/axe-core.js: docs/tools/axe_core.py | $(VENV)/ready
	@$(BIN)/python docs/tools/axe_core.py $@

$(VENV)/tests-compiled: $(VENV)/ready
	@find tests -name "test_*.py" | xargs -n 120 -P 2 $(BIN)/python -m pytest --collect-only -q >/dev/null 2>&1 || true
	@touch $@

# A warning is an error.
site: export SITE_URL := $(SITE_URL)
site: $(VENV)/ready
	@echo "Building the site of some 40 pages, in one to five minutes ..."
	@$(BIN)/sphinx-build -q -W --keep-going -c docs/site -b html . build/site
	@echo "Open build/site/index.html"

pictures: compiled
	@docs/tools/debian-packages curl $(if $(STATUS),chromium)
	@$(BIN)/python docs/tools/readme_pictures.py
	@$(if $(STATUS),$(BIN)/python docs/tools/pictures.py)

FUZZ_SECONDS ?= 60

fuzz: $(VENV)/ready
	@$(BIN)/python -c "import atheris" 2>/dev/null || $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --only-binary atheris --no-build-isolation -e '.[test,tls,acme,fuzz]'
	@$(BIN)/python tests/fuzz/run.py --seconds $(FUZZ_SECONDS) $(TARGETS)

bench: compiled
	@docs/tools/debian-packages haproxy nginx=nginx-light wrk cc=gcc openssl openssl/ssl.h=libssl-dev h2load=nghttp2-client curl
	@$(BIN)/python docs/tools/bench $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
		$(if $(BASELINE),--baseline $(BASELINE)) $(if $(ALONE),--only-ours) $(if $(PAGE),--page $(PAGE))

testssl: compiled
	@docs/tools/debian-packages services=netbase nginx=nginx-light testssl=testssl.sh
	@$(BIN)/python tests/testssl.py

SECONDS ?= 600

h2spec: compiled
	@docs/tools/debian-packages services=netbase nginx=nginx-light
	@$(BIN)/python tests/h2spec.py

soak: compiled
	@docs/tools/debian-packages services=netbase nginx=nginx-light
	@$(BIN)/python tests/soak/soak.py --seconds $(SECONDS) $(SOAK)

soak-hostile: compiled
	@$(BIN)/python tests/soak/hostile.py --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(SOAK)

soak-relays: compiled
	@$(BIN)/python tests/soak/relays.py $(SOAK)

soak-certificates: compiled
	@$(BIN)/python tests/soak/certificates.py $(SOAK)

soak-http2: compiled
	@docs/tools/debian-packages services=netbase nginx=nginx-light curl h2load=nghttp2-client
	@$(BIN)/python tests/soak/http2.py $(SOAK)

soak-cluster: SECONDS = 60
soak-cluster: compiled
	@docs/tools/debian-packages services=netbase nginx=nginx-light etcd=etcd-server
	@$(BIN)/python tests/soak/cluster.py --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(SOAK)

# An sdist, and a wheel that is made of it; both are checked.
dist: $(VENV)/ready
	@$(BIN)/python -c "import build, twine, check_wheel_contents" 2>/dev/null || $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[test,tls,dist]'
	@rm -f dist/*.tar.gz dist/*.whl
	@$(BIN)/python -m build --no-isolation --outdir dist . >/dev/null
	@$(BIN)/twine check --strict dist/*.tar.gz dist/*.whl
	@$(BIN)/check-wheel-contents dist/*.whl

# The package is built of what git has, in a folder of its own.
deb:
	@docs/tools/debian-packages dh=debhelper dpkg-buildpackage=dpkg-dev cc=gcc fakeroot ensurepip=python3-venv /usr/bin/python3-config=python3-dev git
	@docs/tools/build_deb dist

image: $(VENV)/ready
	@BASE="$(BASE)" docs/tools/build_image $(IMAGE)

lint: $(VENV)/ready
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz .import_linter_cache

# kahu's build. `make help` lists what there is; every recipe works from a
# fresh clone on Linux with Go and, for RocksDB, Debian's librocksdb-dev.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

GO      ?= go
BIN     := bin/kahu
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -X main.version=$(VERSION)

# grocksdb 1.7.14 is the binding for exactly RocksDB 7.8 (go.mod), so a header
# of another major version counts as none.
HAVE_ROCKSDB = $(shell printf '\#include <rocksdb/version.h>\n\#if ROCKSDB_MAJOR != 7\n\#error\n\#endif\n' \
	| $(CXX) -E -x c++ - >/dev/null 2>&1 && echo yes)
TAGS = $(if $(HAVE_ROCKSDB),-tags rocksdb)

# Linked statically where that can be had, as the packages are: ld.so would bind
# RocksDB in each of the three processes of every kahu exec, at 2 ms apiece. Names
# of users and groups then come from /etc alone, or getent (agent/config).
STATIC_LIBS = -lrocksdb -lstdc++ -lm -lz -lsnappy -llz4 -lzstd -lbz2 -ldl
HAVE_STATIC = $(if $(HAVE_ROCKSDB),$(shell printf 'int main() { return 0; }\n' \
	| $(CXX) -x c++ - -static $(STATIC_LIBS) -o /dev/null >/dev/null 2>&1 && echo yes))
ifneq ($(HAVE_STATIC),)
BUILD_ENV   = CGO_LDFLAGS='-static $(STATIC_LIBS)'
BUILD_TAGS  = -tags rocksdb,netgo,osusergo
BUILD_LINK  = -linkmode external -extldflags -static
else
BUILD_TAGS  = $(TAGS)
endif

# One fuzz target runs this long in `make fuzz`.
FUZZTIME ?= 30s
# Longest that one package's tests may take.
TESTTIMEOUT ?= 20m
# Tools live outside the repository.
TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kahu-tools
GOLANGCI_VERSION := v2.15.0
GOLANGCI := $(TOOLS)/golangci-lint-$(GOLANGCI_VERSION)

##@ Everyday

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} \
		/^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z0-9-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo

.PHONY: build
build: ## Build bin/kahu (with RocksDB when librocksdb 7 headers are there)
	@if [ -n '$(HAVE_ROCKSDB)' ]; then \
		echo 'building $(BIN) $(VERSION) with the engines memory, sqlite and rocksdb'; \
	else \
		echo 'building $(BIN) $(VERSION) with the engines memory and sqlite; for rocksdb: apt-get install librocksdb-dev libzstd-dev liblz4-dev libsnappy-dev libbz2-dev zlib1g-dev'; \
	fi
	@$(BUILD_ENV) $(GO) build $(BUILD_TAGS) -trimpath -ldflags '$(LDFLAGS) $(BUILD_LINK)' -o $(BIN) ./cmd/kahu

.PHONY: demo
demo: ## Invoices under kill -9: three voters, a proxy, guarded workers, checked
	@$(GO) run ./test/demo

##@ Checking

.PHONY: wire
wire: ## A Kahuna client in Node against four agents; with a checkout of Kahuna's own clients see test/wire
	@test/wire/smoke.sh

.PHONY: test
test: ## go vet, then every test with the race detector (RocksDB too where built)
	$(GO) vet ./...
	@# One binary for all tests that run agents, instead of one for each.
	@$(MAKE) build
	KAHU_TEST_BINARY=$(CURDIR)/$(BIN) $(GO) test -race -timeout $(TESTTIMEOUT) ./...
	@if [ -n '$(HAVE_ROCKSDB)' ]; then set -x; \
		$(GO) vet $(TAGS) ./storage/...; \
		$(GO) test -race -timeout $(TESTTIMEOUT) $(TAGS) ./storage/...; \
	else echo 'SKIPPED: the rocksdb engine, its headers are not installed (apt-get install librocksdb-dev)'; fi

.PHONY: short
short: ## The tests that take seconds, without the race detector
	$(GO) test -short -timeout 3m ./...

.PHONY: soak
soak: ## The long tests: 20 leader kills, partitions of every shape and more, many times the size
	KAHU_SOAK=1 $(GO) test -race -count=1 -timeout 60m -v ./test/e2e/... ./test/faults/... ./test/partitions/...

.PHONY: overlap
overlap: build ## 1,000 random faults on guards, agents, network and wall clocks: no two commands at once (OVERLAP=N faults)
	KAHU_TEST_BINARY=$(CURDIR)/$(BIN) KAHU_OVERLAP=$(or $(OVERLAP),1000) $(GO) test -count=1 -timeout 2h30m -v -run '^TestExecNeverOverlaps$$' ./test/e2e

.PHONY: lint
lint: $(GOLANGCI) ## gofmt, go vet, golangci-lint, and that generated code is fresh
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo 'not formatted (run gofmt -w):'; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	$(GOLANGCI) run ./...
	@./test/generated.sh

.PHONY: fuzz
fuzz: ## Every fuzz target for FUZZTIME (30s) each
	@GO=$(GO) test/fuzz.sh $(FUZZTIME)

.PHONY: cover
cover: ## Coverage of the short tests over all packages, into cover.out
	$(GO) test -short -timeout 5m -coverpkg=./... -coverprofile=cover.out ./...
	$(GO) tool cover -func=cover.out | tail -1

.PHONY: hosts
hosts: ## The packages on Debian hosts that boot under systemd-nspawn (root; systemd-container, debootstrap)
	KAHU_HOSTS=1 $(GO) test -count=1 -timeout 20m -v ./test/hosts

.PHONY: containers
containers: ## The Kubernetes manifests against their types, and the sidecar pair under runc (root; buildah, runc)
	cd test/containers && KAHU_CONTAINERS=1 $(GO) test -count=1 -timeout 20m -v .

.PHONY: machine
machine: ## The arm64 package on a machine of its own: guard, steps of its clock, suspend (qemu-system-arm, cpio)
	@[ -n "$$(ls dist/*_arm64.deb 2>/dev/null)" ] || GO=$(GO) packaging/build.sh arm64
	KAHU_MACHINE=$$(ls $(CURDIR)/dist/*_arm64.deb) $(GO) test -count=1 -timeout 15m -v ./test/machine

.PHONY: suspend
suspend: ## Guard and voter in an emulated machine that is suspended to RAM, and its clock stepped (root; qemu-system-x86, busybox-static)
	KAHU_SUSPEND=1 CGO_ENABLED=0 $(GO) test -count=1 -timeout 20m -v ./test/suspend

##@ Packages

.PHONY: packages
packages: ## deb and rpm for amd64 and arm64, checksums and SBOM, reproducible, into dist/
	@GO=$(GO) packaging/build.sh amd64 arm64

.PHONY: arm64-libraries
arm64-libraries: ## What make packages needs for RocksDB on arm64, from Debian into the cache (and g++-aarch64-linux-gnu)
	@packaging/foreign.sh arm64 $(TOOLS)/arm64-libraries librocksdb-dev libzstd-dev liblz4-dev libsnappy-dev libbz2-dev zlib1g-dev

.PHONY: lint-packages
lint-packages: ## lintian and rpmlint on dist/, and the rpm installed into an empty root (root)
	@packaging/lint.sh

.PHONY: image
image: ## The container image for amd64 and arm64, as OCI archives into dist/ (buildah)
	@mkdir -p dist
	@for arch in amd64 arm64; do GO=$(GO) packaging/image.sh dist/kahu-image-$$arch.tar $$arch; done

##@ Measuring

.PHONY: bench
bench: build ## kahu beside etcd: three local members each, same loads, ratios
	./test/bench/compare.sh

.PHONY: capacity
capacity: ## A million keys, a thousand idle holds: memory, restart time and CPU, with limits
	$(GO) run ./test/capacity

.PHONY: idle
idle: build ## Three voters and a proxy that nobody asks for anything: memory and share of a core, with limits
	KAHU_TEST_BINARY=$(CURDIR)/$(BIN) $(GO) run ./test/capacity -parts idle -watch 30s

.PHONY: microbench
microbench: ## The Go benchmarks of the hot paths, with allocations
	$(GO) test -run '^$$' -bench . -benchmem ./...

##@ Housekeeping

.PHONY: generate
generate: ## Generate the protobuf code again (needs protoc)
	./test/generated.sh --write

.PHONY: clean
clean: ## Remove what the recipes above made
	rm -rf bin dist cover.out

# Built in the module cache's own module, so that its dependencies never meet ours.
$(GOLANGCI):
	@mkdir -p $(TOOLS)
	GOBIN=$(TOOLS)/build $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	@mv $(TOOLS)/build/golangci-lint $@ && rmdir $(TOOLS)/build

# The project's commands. `make help` lists them; docs/testing.md says when to use which.

TAGS ?= nozstd
GO_TEST_FLAGS ?=
export TAGS GO_TEST_FLAGS
IMAGE ?= ghcr.io/estuary/source-postgres:local

SOAK_DURATION ?= 1h

.PHONY: help build demo test test-matrix soak check bench house fuzz fmt image up down integration clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## the static binary, ./source-postgres
	CGO_ENABLED=0 go build -tags "$(TAGS)" -trimpath -o source-postgres .

demo: ## backfill, live changes, kill -9 and resume on a throwaway PostgreSQL, checked at the end
	@tests/demo.sh

# With TEST_DATABASE_ADDRESS set the tests use that server, else a throwaway one.
test: ## every test, those against a real PostgreSQL included
	@tests/test.sh

test-matrix: ## the same with all situations, on PostgreSQL 14 to 18 from npm (MAJORS="14 18": on these only)
	@tests/matrix.sh $(MAJORS)

soak: ## kills, cuts, crashes and changes of shape at random for SOAK_DURATION (1h), resumable; writes tests/soak-report.md
	go test -tags "$(TAGS)" -timeout 0 -count=1 -run '^TestSoak$$' . -args -soak -duration $(SOAK_DURATION)

check: ## all that CI does: test, gofumpt, vet, staticcheck, race detector, benchmarks once, fuzz targets
	@tests/check.sh

bench: ## backfills and streams beside COPY and pg_recvlogical, on a throwaway PostgreSQL (BASE=COMMIT: and beside that)
	@tests/bench.sh

benchmarks: ## every Go benchmark, against a throwaway PostgreSQL
	@tests/postgres.sh run --name "benchmarks-$$$$" -- \
		go test -tags "$(TAGS)" -run '^$$' -bench . -benchmem $(GO_TEST_FLAGS) ./...

fuzz: ## every fuzz target for FUZZTIME (10s)
	@tests/check.sh fuzz

fmt: ## format as `make check` wants it
	@tests/check.sh fmt

image: ## the container image
	docker build -t $(IMAGE) -f Dockerfile .

up: ## the database of docker-compose.yaml, ready when this returns
	docker compose up -d --wait

down: ## remove it with its data
	docker compose down -v

integration: ## tests/run.sh: the image against the compose database
	CONNECTOR=source-postgres VERSION=local tests/run.sh

house: ## who uses whom: families, arrows that run up, the circle, fields that others write, walks
	go run ./tests/house -tags "$(TAGS)"

clean: ## the binary, and every throwaway server of this folder
	tests/postgres.sh stop --all
	rm -f source-postgres

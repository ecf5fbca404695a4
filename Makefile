# Everything a contributor runs. `make help` explains.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO_VERSION := 1.26
FUNCTIONS  := acquire renew release status forcerelease stream expire
ARCHES     := arm64 amd64
LINT       := go tool -modfile=tools.mod golangci-lint

# Single-threaded walks of millions of states and transitions; the race detector would only slow them.
EXPLORER := ^(TestExplore|TestMutants|TestModelMutants)$$
OUTBOX   := ^TestOutbox$$

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 14

go-version:
	@command -v go >/dev/null || { echo "Go is missing: install $(GO_VERSION) or later from https://go.dev/dl"; exit 1; }
	@go list -m >/dev/null || { echo "this needs Go $(GO_VERSION) or later; 'go version' says: $$(go version)"; exit 1; }

run: go-version ## Run the whole coordinator on this machine, in memory
	@go run ./cmd/holdfast dev

test: go-version ## Run the tests, with DynamoDB Local (needs Java 17; Maven the first time)
	@scripts/with-dynamodb.sh go test -race -skip '$(EXPLORER)|$(OUTBOX)' ./...
	@scripts/figures.sh go test -v -run '$(EXPLORER)|$(OUTBOX)' -timeout 10m ./internal/lock ./internal/stream

lint: go-version ## Check formatting, vet, linters, go fix and generated files
	@test -z "$$(gofmt -l .)" || { echo "not gofmt'ed:"; gofmt -l .; exit 1; }
	@go vet ./...
	@go vet -tags stress ./cmd/holdfast ./internal/stream
	@test -z "$$(go fix -diff ./... 2>&1)" || { go fix -diff ./...; exit 1; }
	@$(LINT) run ./...
	@go mod tidy -diff
	@go mod verify >/dev/null

build: go-version ## Build the functions as reproducible zips in dist/, for arm64 and amd64
	@rm -rf dist
	@for arch in $(ARCHES); do for f in $(FUNCTIONS); do \
	  out=dist/$$arch/$$f; mkdir -p $$out; \
	  CGO_ENABLED=0 GOOS=linux GOARCH=$$arch go build -trimpath -buildvcs=false -tags lambda.norpc -ldflags '-s -w -buildid=' -o $$out/bootstrap ./functions/$$f; \
	  go run ./scripts/zip $$out/bootstrap $$out.zip; \
	done; done
	@ls -l dist/*/*.zip | awk '{printf "%s %.1f MB\n", $$9, $$5/1e6}'

bench: go-version ## Compare the coordinator with bare DynamoDB, and time the handlers
	@scripts/with-dynamodb.sh go test -run '^$$' -bench AgainstBare -benchtime 4000x ./internal/dynamo
	@go test -run '^$$' -bench . -benchtime 2s ./internal/api

stress: go-version ## Race processes for one lock, kill holders, time expiries
	@scripts/with-dynamodb.sh scripts/figures.sh go test -v -tags stress -run Stress -timeout 20m ./cmd/holdfast ./internal/stream

explore: go-version ## Walk the protocol's large worlds too; takes tens of minutes
	@go test -run '^TestExplore$$' -timeout 3h -v ./internal/lock -explore.all

fuzz: go-version ## Fuzz request decoding and name validation with ten million inputs
	@go test -run '^$$' -fuzz FuzzName -fuzztime 5000000x ./internal/api
	@go test -run '^$$' -fuzz FuzzAcquireBody -fuzztime 5000000x ./internal/api

fmt: go-version ## Format and modernise the code
	@go fix ./...
	@gofmt -w .

generate: go-version ## Write generated files anew
	@go generate ./...
	@go test ./internal/api -run TestGolden -update >/dev/null

clean: ## Remove what was built
	@rm -rf dist

.PHONY: help go-version run test lint build bench stress explore fuzz fmt generate clean

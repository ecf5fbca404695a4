# The commands of a contributor. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO_VERSION := $(shell sed -n 's/^go //p' go.mod)
comma      := ,
FUNCTIONS  := $(patsubst functions/%/main.go,%,$(wildcard functions/*/main.go))
ARCHES     := arm64 amd64
CDK_CLI    := 2.1148.1
LINT       := go tool -modfile=tools.mod golangci-lint
LINT_INFRA := go tool -modfile=../tools.mod golangci-lint
# Not in tools.mod: it does not compile with the version of go.yaml.in/yaml/v4 that golangci-lint needs.
ACTIONLINT := go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

# Single-threaded tests of millions of states and transitions, which run without the race detector.
EXPLORER := ^(TestExplore|TestExploreSets|TestMutants|TestSetMutants|TestQueueMutants|TestModelMutants|TestLimitMutants)$$
OUTBOX   := ^TestOutbox$$
CYCLES   := ^TestCyclesLeakNothing$$
SIMULATION := ^(TestSimulation|TestRepeats|TestClocksBeyondTheAllowance)$$

# The fuzz tests: package and name. go test runs their corpora, in testdata/fuzz.
FUZZ     := ./internal/api:FuzzName ./internal/api:FuzzAcquireBody ./internal/api:FuzzEvent ./internal/api:FuzzNotifyQueue ./internal/scope:FuzzAllows \
  ./internal/scope:FuzzAlias ./internal/dynamo:FuzzReadRecord ./internal/wire:FuzzText ./internal/wire:FuzzLease ./internal/stream:FuzzJob \
  ./lockclient:FuzzAnswer ./cmd/holdfast:FuzzPrintable

# Tests that take seconds each, since they wait for real time or build programs. make test runs them, make quick does
# not.
SLOW     := ^(TestExec.*|TestMakeRun|TestTransports|TestStreamOfDynamoDBLocal|TestProperty|TestSuite|TestRequestsPerHandOff|TestLostReplyOfEveryOperation|TestSilentEngine|TestUnreachableAsSetUp)$$

help: ## Show this help
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  \1\t\2/' | expand -t 18

go-version:
	@command -v go >/dev/null || { echo "Go is missing: install $(GO_VERSION) or later from https://go.dev/dl"; exit 1; }
	@go list -m >/dev/null || { echo "this needs Go $(GO_VERSION) or later; 'go version' says: $$(go version)"; exit 1; }

# Built and run separately, since go run turns Ctrl-C into an error.
run: go-version ## Run the whole coordinator on this machine, in memory; LISTEN=HOST:PORT, RUN_ARGS='--min-ttl 100ms' for TTLs below 1 s
	@go build -o .bin/run ./scripts/run
	@HOLDFAST_LISTEN_HINT='make run LISTEN=HOST:PORT' exec .bin/run --min-ttl 1s $(if $(LISTEN),--listen '$(LISTEN)') $(RUN_ARGS)

test: go-version ## Run the tests, with DynamoDB Local (needs Java 17; Maven the first time)
	@scripts/with-dynamodb.sh go test -race -skip '$(EXPLORER)|$(OUTBOX)|$(CYCLES)|$(SIMULATION)' ./...
	@go run ./scripts/figures go test -json -run '$(EXPLORER)|$(OUTBOX)|$(CYCLES)|$(SIMULATION)' -timeout 10m ./internal/lock ./internal/eventbridge ./lockclient ./internal/sim
	@go test -C bench ./...

quick: go-version ## Run vet and the tests of changed packages without the slow ones, with DynamoDB Local; less than a minute
	@go vet ./...
	@scripts/with-dynamodb.sh go test -skip '$(EXPLORER)|$(OUTBOX)|$(CYCLES)|$(SIMULATION)|$(SLOW)' ./...

lint: go-version ## Check formatting, vet, linters, go fix, modules and the CI workflows
	@test -z "$$(gofmt -l .)" || { echo "not gofmt'ed:"; gofmt -l .; exit 1; }
	@go vet ./...
	@go vet -tags stress ./cmd/holdfast ./internal/poller
	@go vet -tags samlocal ./lockclient
	@GOOS=windows go vet ./cmd/holdfast ./lockclient/... && GOOS=darwin go vet ./cmd/holdfast
	@test -z "$$(go fix -diff ./... 2>&1)" || { go fix -diff ./...; exit 1; }
	@$(LINT) run ./...
	@go vet -C bench ./... && go -C bench mod tidy -diff
	@go vet -C scripts/image ./... && cd scripts/image && $(subst ../,../../,$(LINT_INFRA)) run ./... && go mod tidy -diff
	@cd infra && test -z "$$(go fix -diff ./... 2>&1)" || { go fix -diff ./...; exit 1; }
	@cd infra && go vet ./... && $(LINT_INFRA) run --build-tags cloud ./...
	@go mod tidy -diff && go -C infra mod tidy -diff
	@go mod verify >/dev/null
	@$(ACTIONLINT)

# What drives the browser is a package of npm's, the browser Debian's chromium or another that CHROMIUM names.
ui-tools: go-version node
	@npm ci --prefix internal/ui/browser --silent --no-audit --no-fund
	@go build -o .bin/uidemo ./scripts/uidemo && go build -o .bin/run ./scripts/run

ui-test: ui-tools ## Test the live page in a headless Chromium, with axe, and print what it takes with 10,000 locks (needs Node.js 20 and Chromium)
	@cd internal/ui/browser && node --test --test-concurrency=1 --test-timeout=60000 --test-reporter=spec *.test.mjs

ui-shots: ui-tools ## Take the screenshots of docs/ui.md
	@mkdir -p docs/ui && node internal/ui/browser/shots.mjs docs/ui

# The behaviour suite runs with the driver of each client.
clients-test: go-version clients-typescript clients-python ## Test the clients: the behaviour suite with each of them, and their own tests (needs Node.js 20, Python 3.10, Java 17)
	@go build -o .bin/suite ./clients/suite && go build -o .bin/godriver ./clients/suite/godriver
	@.bin/suite -name go -driver .bin/godriver
	@PYTHONPATH=dist/python/site .bin/suite -name python -driver '.bin/python clients/python/tests/driver.py'
	@PYTHONPATH=dist/python/site .bin/suite -name 'python --sync' -driver '.bin/python clients/python/tests/driver.py --sync'
	@.bin/suite -name typescript -driver 'node clients/typescript/.bin/test/driver.js'

clients-plants: go-version clients-typescript clients-python ## Plant faults in the clients, one at a time, and see that the suite or the client's tests notice each; CLIENT=NAME, ONLY=REGEXP
	@scripts/with-dynamodb.sh go run ./clients/suite/plants $(if $(CLIENT),-client $(CLIENT)) $(if $(ONLY),-only '$(ONLY)')

clients-typescript: go-version node
	@go build -o .bin/holdfast ./cmd/holdfast
	@cd clients/typescript && npm ci --silent --no-audit --no-fund --ignore-scripts && npm run --silent build && npm run --silent pretest && \
	  out=$$(npm run --silent check 2>&1 && npm test --silent --ignore-scripts 2>&1) || { echo "$$out"; exit 1; }
	@cd clients/typescript && node test/packed.mjs

clients-python: go-version python
	@go build -o .bin/run ./scripts/run
	@scripts/with-dynamodb.sh clients/python/check.sh

build: go-version ## Build the functions as reproducible zips in dist/, for arm64 and amd64; TRACED=true adds dist/ARCH/traced, which make spans
	@$(if $(TRACED),true,rm -rf dist)
	@for arch in $(ARCHES); do for f in $(FUNCTIONS); do \
	  echo "building $$f for $$arch" >&2; out=dist/$$arch$(if $(TRACED),/traced)/$$f; mkdir -p $$out; \
	  CGO_ENABLED=0 GOOS=linux GOARCH=$$arch go build -trimpath -buildvcs=false -tags lambda.norpc$(if $(TRACED),$(comma)traced) -ldflags '-s -w -buildid=' -o $$out/bootstrap ./functions/$$f; \
	  go run ./scripts/zip $$out/bootstrap $$out.zip; \
	done; done
	@ls -l dist/*$(if $(TRACED),/traced)/*.zip | awk '{printf "%s %.1f MB\n", $$9, $$5/1e6}'

# The architecture of this machine, for the local cloud.
HOST_ARCH  := $(shell go env GOARCH)
HOST_NAME  := $(if $(filter arm64,$(HOST_ARCH)),arm64,x86_64)

python:
	@. scripts/cloud/python.sh

node:
	@command -v node >/dev/null || { echo "Node.js is missing: the CDK needs version 20 or later (https://nodejs.org)"; exit 1; }

infra-test: go-version node ## Test the CDK construct and its template
	@cd infra && go test ./...

synth: go-version node ## Synthesise the CDK stack for this machine into dist/cdk
	@$(MAKE) -s build ARCHES=$(HOST_ARCH) >/dev/null
	@echo "synthesising the CDK stack" >&2
	@cd infra && out=$$(CDK_OUTDIR=$(CURDIR)/dist/cdk \
	  CDK_CONTEXT_JSON='{"architecture":"$(HOST_NAME)","code":"$(CURDIR)/dist/$(HOST_ARCH)"}' go run ./app 2>&1) || { echo "$$out"; exit 1; }

# The settings of the variant "sam" of infra/variants_test.go, as parameters of template.yaml.
SAM_EVERYTHING := DeletionProtection=true TableName=locks MaxTtlMilliseconds=300000 StateMachines=Deploy* DurableFunctions=durable Events=deploy:,report \
  Concurrency=20 StreamConcurrency=5 ExpireConcurrency=6 TimersConcurrency=4 RequestsPerSecond=50 Burst=60 LogRetentionDays=7 Tracing=true \
  TraceEndpoint=http://localhost:4318 TraceLayerArn=arn:aws:lambda:eu-west-1:111122223333:layer:collector:1 \
  MetricNamespace=Mine NotifyName=mine Rollout=Canary10Percent30Minutes DeployedVersion=v1 SubnetIds=subnet-0a1b2c3d SecurityGroupIds=sg-0a1b2c3d AlarmTopicArn=arn:aws:sns:eu-west-1:111122223333:alarms KeyArn=arn:aws:kms:eu-west-1:111122223333:key/k

SAM_WITHOUT_API := NoApi=true SubnetIds=subnet-0a1b2c3d,subnet-1a2b3c4d SecurityGroupIds=sg-0a1b2c3d EndpointsVpcId=vpc-0a1b2c3d RouteTableIds=rtb-0a1b2c3d,rtb-1a2b3c4d \
  StateMachines=Deploy* DurableFunctions=durable Tracing=true Rollout=Canary10Percent5Minutes DeployedVersion=v1

# parity.py and cfn-lint run in Python, the other validators in Node.js. W3005: the CDK makes a state machine depend on
# its role twice.
templates: go-version node python synth ## Validate templates and state machines with AWS's validators and cdk-nag; compare SAM with the CDK
	@npm ci --prefix scripts/templates --silent --no-audit --no-fund
	@rm -rf dist/templates && mkdir -p dist/templates
	@cd infra && out=$$(go test -count=1 -run '^TestVariants$$' . -args -templates $(CURDIR)/dist/templates 2>&1) || { echo "$$out"; exit 1; }
	@. scripts/cloud/venv.sh && bin=$$(dirname "$$HOLDFAST_CLOUD_PYTHON") && \
	  $$bin/python scripts/cloud/parity.py template.yaml dist/cdk/Holdfast.template.json && \
	  $$bin/python scripts/cloud/parity.py template.yaml dist/templates/sam.template.json $(SAM_EVERYTHING) && \
	  $$bin/python scripts/cloud/parity.py template.yaml dist/templates/sam-without-timers.template.json PromptExpiry=false Events=- \
	    Rollout=Linear10PercentEvery1Minute DeployedVersion=v1 && \
	  $$bin/python scripts/cloud/parity.py template.yaml dist/templates/sam-without-api.template.json $(SAM_WITHOUT_API) && \
	  $$bin/cfn-lint -i W3005 -- template.yaml dist/cdk/Holdfast.template.json $$(ls dist/templates/*.json | grep -v -e /china -e /us-gov) && \
	  $$bin/cfn-lint -i W3005 -r cn-north-1 -- dist/templates/china*.json && \
	  $$bin/cfn-lint -i W3005 -r us-gov-west-1 -- dist/templates/us-gov*.json && \
	  echo "cfn-lint: $$(ls template.yaml dist/cdk/Holdfast.template.json dist/templates/*.json | wc -l) templates are valid"
	@node scripts/templates/asl.js examples/stepfunctions/*.asl.json $$(grep -l AWS::StepFunctions::StateMachine dist/templates/*.json)
	@node scripts/templates/nag.js dist/cdk/Holdfast.template.json

terraform: go-version python ## Check the Terraform module by the schema of its provider, and compare it with the SAM template
	@go -C scripts/terraform vet . && go -C scripts/terraform mod tidy -diff && go -C scripts/terraform test .
	@scripts/terraform/compare.sh

# The prerequisites are checked before anything is built.
cloud: go-version node python synth ## Run the CDK stack on this machine, and print how to reach it
	@scripts/with-cloud.sh scripts/cloud/run.sh

# The stack with the example state machines.
synth-examples: go-version node python
	@$(MAKE) -s build ARCHES=$(HOST_ARCH) >/dev/null
	@mkdir -p dist/work && CGO_ENABLED=0 GOOS=linux go build -trimpath -o dist/work/bootstrap ./examples/stepfunctions/work
	@echo "synthesising the CDK stack with the examples" >&2
	@cd infra && out=$$(CDK_OUTDIR=$(CURDIR)/dist/cdk-examples \
	  CDK_CONTEXT_JSON='{"architecture":"$(HOST_NAME)","code":"$(CURDIR)/dist/$(HOST_ARCH)","examples":"$(CURDIR)/examples/stepfunctions","work":"$(CURDIR)/dist/work"}' go run ./app 2>&1) || { echo "$$out"; exit 1; }

# The stack without an API, in the local engine's default VPC.
WITHOUT_API := "stack":"HoldfastWithoutApi","noApi":"true","subnetIds":"subnet-00000001,subnet-00000002","securityGroupIds":"sg-00000001",\
"endpointsVpcId":"vpc-00000001","routeTableIds":"rtb-00000001"

synth-without-api: go-version node
	@echo "synthesising the CDK stack without an API" >&2
	@cd infra && out=$$(CDK_OUTDIR=$(CURDIR)/dist/cdk-without-api \
	  CDK_CONTEXT_JSON='{"architecture":"$(HOST_NAME)","code":"$(CURDIR)/dist/$(HOST_ARCH)",$(WITHOUT_API)}' go run ./app 2>&1) || { echo "$$out"; exit 1; }

e2e: synth-examples synth-without-api ## Test the CDK stack end to end on this machine, with authorisation enforced
	@cd infra && go vet -tags cloud ./e2e
	@HOLDFAST_CLOUD_ASSEMBLY=dist/cdk-examples HOLDFAST_CLOUD_WITHOUT_API=dist/cdk-without-api scripts/with-cloud.sh scripts/cloud/run.sh go run ./scripts/figures go test -C infra -json -count=1 -tags cloud ./e2e

# The stack with the examples and with functions that make spans, whose collector is the command that draws.
trace-picture: go-version node python ## Run a task that waits for a lock on the local cloud, and draw its trace into docs/tracing
	@$(MAKE) -s build ARCHES=$(HOST_ARCH) TRACED=true
	@mkdir -p dist/work && CGO_ENABLED=0 GOOS=linux go build -trimpath -o dist/work/bootstrap ./examples/stepfunctions/work
	@go build -o .bin/tracepicture ./scripts/tracepicture
	@cd infra && out=$$(CDK_OUTDIR=$(CURDIR)/dist/cdk-traced \
	  CDK_CONTEXT_JSON='{"architecture":"$(HOST_NAME)","code":"$(CURDIR)/dist/$(HOST_ARCH)","examples":"$(CURDIR)/examples/stepfunctions","work":"$(CURDIR)/dist/work","tracing":"true","traceEndpoint":"http://127.0.0.1:4318"}' go run ./app 2>&1) || { echo "$$out"; exit 1; }
	@HOLDFAST_CLOUD_ASSEMBLY=dist/cdk-traced scripts/with-cloud.sh scripts/cloud/run.sh .bin/tracepicture

sam-local: go-version ## Build and run the SAM template with sam local, on DynamoDB Local; needs Docker and the SAM CLI
	@scripts/with-dynamodb.sh scripts/sam-local.sh

deploy: go-version node ## Deploy to the AWS account of your credentials, with the CDK; CDK_ARGS adds to its command
	@$(MAKE) -s build ARCHES=arm64
	@cd infra && npx --yes aws-cdk@$(CDK_CLI) deploy -c code=$(CURDIR)/dist/arm64 $(CDK_ARGS)

release: go-version ## Commit and tag a release of both modules: VERSION=v1.2.3
	@scripts/release.sh "$(VERSION)"

release-check: go-version node ## Make a release in a clone, and use it as a user does: go get, go install, synthesis; make the container image and run it
	@scripts/release-check.sh

# What make bench-before measures: the commit before polls with tickets, and the benchmark as it is in this tree.
BENCH_BASE := 87063d7
COMMIT      = $$(git describe --always --dirty --abbrev=7)
# Each part has an engine of its own: DynamoDB Local becomes slower with what it has stored.
PARTS      := overhead holders handoff waiting

bench: go-version ## Compare with bare DynamoDB and another library, into docs/benchmarks/after.json; time handlers and cold starts
	@for part in $(PARTS); do \
	  scripts/with-dynamodb.sh go run -C bench ./cost -only $$part -commit "$(COMMIT)" -out $(CURDIR)/docs/benchmarks/after.json; done
	@scripts/with-dynamodb.sh go test -run '^$$' -bench AgainstBare -benchtime 2000x ./internal/dynamo
	@go test -run '^$$' -bench . -benchtime 2s ./internal/api
	@go run ./scripts/coldstart

# The race of the peers; ONLY: cost, speed, waiting, handoff, faults, exclusion. A part alone is printed, and not recorded.
peers: go-version ## Race other lock clients against Holdfast, into docs/benchmarks.md; ONLY=cost,speed prints a part (needs JDK 17, Maven, Node.js, Python 3.12: PYTHON=)
	@bench/install.sh dist/peers
	@scripts/with-dynamodb.sh dist/peers/race -drivers dist/peers -commit "$(COMMIT)" $(if $(ONLY),-only $(ONLY) -out dist/peers/part.json,-out docs/benchmarks/peers.json)
	@dist/peers/race $(if $(ONLY),-report dist/peers/part.json -page -,-report docs/benchmarks/peers.json -page docs/benchmarks.md)

bench-before: go-version ## Measure the commit BENCH_BASE with this tree's benchmark, into docs/benchmarks/before.json
	@rm -rf dist/before && git worktree prune && git worktree add --detach dist/before $(BENCH_BASE) 2>/dev/null
	@cp -r bench dist/before/ && cp -r internal/meter dist/before/internal/
	@for part in $(PARTS); do \
	  scripts/with-dynamodb.sh go run -C dist/before/bench -mod=mod ./cost -only $$part -commit $(BENCH_BASE) -out $(CURDIR)/docs/benchmarks/before.json; done
	@git worktree remove --force dist/before

bench-report: go-version ## Write the tables and the plot of what waiting costs in docs/benchmarks.md from docs/benchmarks
	@go run -C bench ./cost -report $(CURDIR)/docs/benchmarks

stress: go-version ## Let processes race for one lock, kill holders, measure expiries
	@scripts/with-dynamodb.sh go run ./scripts/figures go test -json -tags stress -run 'Stress|ExecDeaths' -parallel 8 -timeout 20m ./cmd/holdfast ./internal/poller

# A cut of two minutes by default; docs/campaign.md has the settings.
campaign: go-version ## Let many processes use locks through faults, and check what they saw; SEED=N, OPS=N, MINUTES=N, KILLS=N, STREAM_KILLS=N, PLAN=FILE
	@go build -o .bin/campaign ./scripts/campaign && go build -o .bin/holdfast ./cmd/holdfast
	@.bin/campaign --holdfast .bin/holdfast $(if $(SEED),--seed $(SEED)) $(if $(OPS),--ops $(OPS)) $(if $(MINUTES),--minutes $(MINUTES)) \
	  $(if $(SECONDS_A_ROUND),--seconds $(SECONDS_A_ROUND)) $(if $(KILLS),--kills $(KILLS)) $(if $(STREAM_KILLS),--stream-kills $(STREAM_KILLS)) \
	  $(if $(PLAN),--plan $(PLAN)) $(CAMPAIGN_ARGS)

campaign-planted: go-version ## Plant bugs that only processes and the wire show, one at a time, and let the campaign look for each
	@go build -o .bin/campaign ./scripts/campaign && .bin/campaign --holdfast .bin/holdfast --planted $(CAMPAIGN_ARGS)

mixed: go-version ## Let processes of this tree and of another version use one table, and check what they saw: BASE=REVISION
	@BASE=$(BASE) scripts/mixed.sh --seconds $(or $(SECONDS_A_ROUND),20) $(if $(SEED),--seed $(SEED)) $(CAMPAIGN_ARGS)

explore: go-version ## Explore the protocol's large state spaces, too; takes tens of minutes
	@go test -run '^TestExplore(Sets)?$$' -timeout 3h -v ./internal/lock -explore.all

simulate: go-version ## Simulate clients, coordinators, the stream and their faults on all CPUs: OPS=2000000 operations, seeds from FROM=1 on
	@go run ./scripts/simulate $(if $(OPS),-ops $(OPS)) $(if $(FROM),-from $(FROM))

plants: go-version ## Plant bugs in the protocol, the client and the stream, and see that the simulation notices each; OPS=100000 operations for each
	@go run ./scripts/plants $(if $(OPS),-ops $(OPS)) $(if $(ONLY),-only '$(ONLY)')

mutants: go-version ## Plant small bugs in the core, one at a time, and report those no test catches; PKG=internal/lock, SINCE=REVISION, MINUTES=N
	@scripts/with-dynamodb.sh go run ./scripts/mutants $(if $(SINCE),-diff $(SINCE)) $(if $(MINUTES),-minutes $(MINUTES)) $(if $(LEAST),-least $(LEAST)) $(PKG)

# The packages whose tests take a second and need no engine. A few minutes suffice for a part of their mutants only,
# which shows whether tests have become weaker; make mutants tests them all.
mutants-recent: go-version ## The mutants that CI tests in 6 minutes: of files that changed in the day before the last commit, or SINCE=REVISION
	@$(MAKE) -s mutants MINUTES=6 LEAST=85 PKG='internal/lock internal/wire internal/scope internal/api' \
	  SINCE=$(or $(SINCE),$$(git rev-list -1 --before="$$(date -d "$$(git log -1 --format=%cI) - 1 day" --iso-8601=seconds)" HEAD))

# Secrets are searched for by go test ./internal/secrets, and make campaign.
security: go-version python ## Try the OpenAPI document, look for vulnerabilities, write bills of materials, build a function twice
	@scripts/security/run.sh

reproducible: go-version build ## Build all functions twice, the second time elsewhere and without a cache, and compare
	@FUNCTIONS='$(FUNCTIONS)' ARCHES='$(ARCHES)' scripts/security/reproducible.sh

fuzz: go-version ## Fuzz everything that decodes what others send; FUZZTIME=1m for each target
	@for target in $(FUZZ); do \
	  echo "fuzzing $$target"; go test -run '^$$' -fuzz "^$${target##*:}\$$" -fuzztime $(or $(FUZZTIME),1m) "$${target%%:*}" >/tmp/holdfast-fuzz.$$$$ || { cat /tmp/holdfast-fuzz.$$$$; exit 1; }; \
	  grep -v elapsed /tmp/holdfast-fuzz.$$$$ | grep -v '^ok\|^PASS' || true; rm -f /tmp/holdfast-fuzz.$$$$; \
	done

fmt: go-version ## Format the code, and apply go fix
	@go fix ./...
	@gofmt -w .

generate: go-version ## Generate files
	@go generate ./...
	@go test ./internal/api -run TestGolden -update >/dev/null

clean: ## Remove what was built
	@rm -rf dist

.PHONY: help go-version node python run test quick lint clients-test clients-plants clients-typescript clients-python build infra-test synth synth-examples synth-without-api templates terraform sam-local cloud e2e trace-picture deploy release release-check bench bench-before bench-report peers stress explore mutants mutants-recent simulate plants campaign campaign-planted mixed fuzz security reproducible fmt generate clean

# Make targets that check compose files against the policy. Include this file, or copy the two targets:
#
#   PORTCULLIS_POLICY = policies/qerds.yaml
#   include check.mk
#
# A baseline beside the policy is used if it is there.

PORTCULLIS ?= portcullis
PORTCULLIS_POLICY ?= policy.yaml
PORTCULLIS_BASELINE ?= $(wildcard portcullis-baseline.yaml)
# Empty: the files that Compose itself would take, with the override.
COMPOSE_FILES_DEVELOPMENT ?=
COMPOSE_FILES_PRODUCTION ?= compose.yaml compose.production.yaml

portcullis_check = $(PORTCULLIS) check --policy $(PORTCULLIS_POLICY) \
	$(addprefix --baseline ,$(PORTCULLIS_BASELINE))

.PHONY: check-network check-network-prod

check-network:
	$(portcullis_check) --profile development $(COMPOSE_FILES_DEVELOPMENT)

check-network-prod:
	$(portcullis_check) --profile production $(COMPOSE_FILES_PRODUCTION)

"""Every name that Chrysalis uses in a Kubernetes cluster.  No other module spells one out."""

GROUP = "chrysalis.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

KIND_WORKER = "ConfidentialWorker"
KIND_POLICY = "AttestationPolicy"
KIND_ACCOUNT = "SettlementAccount"
PLURAL_WORKER = "confidentialworkers"
PLURAL_POLICY = "attestationpolicies"
PLURAL_ACCOUNT = "settlementaccounts"

FIELD_MANAGER = "chrysalis-operator"
LABEL_WORKER = f"{GROUP}/worker"
LABEL_POOL = f"{GROUP}/pool"
"""On a namespace, with value "true": it holds only worker pods, and the admission policies apply."""

GATE_ATTESTATION = f"{GROUP}/attestation"
READINESS_ATTESTED = f"{GROUP}/attested"
ANNOTATION_ADMITTED = f"{GROUP}/admitted"
"""On a pod, with its own uid as value: the operator opened its gate.  A bound pod without it was bound by somebody else."""
ANNOTATION_TEMPLATE_VERSION = f"{GROUP}/template-version"
FINALIZER_SETTLEMENT = f"{GROUP}/settlement"
EVICT_TAINT = f"{GROUP}/unattested"

RUNTIME_CLASS_SIMULATED = "chrysalis-simtd"
RUNTIME_CLASS_KATA_TDX = "kata-qemu-nvidia-gpu-tdx"
ANNOTATION_INITDATA = "io.katacontainers.config.hypervisor.cc_init_data"

PORT_GATEWAY = 8443
PORT_BROKER = 8443
PORT_SETTLER = 8444
PORT_HEALTH = 8081
PORT_METRICS = 9090

AUDIENCE_BROKER = "chrysalis-broker"
SERVICE_ACCOUNT_OPERATOR = "chrysalis-operator"

CONTAINER_GATEWAY = "gateway"
CONTAINER_TRITON = "triton"

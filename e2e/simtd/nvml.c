/* SimulatedNvml: the part of NVIDIA's NVML (libnvidia-ml.so.1) that a worker in a Simulated trust domain calls.
 *
 * It has NVML's names, structures and return codes, and no GPU: everything is asked of the Simulated platform, over the
 * guest's loopback service, which holds the keys that sign reports and the ready state of the domain's Simulated GPUs.
 * It protects nothing.  Structures after nvml.h; tests/simtd/test_nvml.py compares them with NVIDIA's own binding.
 *
 * GET  /simulated/nvml/system                       six numbers: GPUs, environment, ccFeature, devToolsMode, multiGpuMode, ready
 * GET  /simulated/nvml/report?gpu=N&nonce=HEX       the SPDM report
 * GET  /simulated/nvml/certificates?gpu=N&of=NAME   the chain "attestation" or "device", PEM
 * POST /simulated/nvml/ready?state=0|1
 * An answer may carry the headers Simulated-Nvml-Return (the return code) and Simulated-Nvml-Size (the size to state).
 */

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, ARGUMENT_VERSION_MISMATCH = 25,
    UNKNOWN = 999
};
enum { MAX_GPUS = 16, CERT_CHAIN = 0x1000, ATTESTATION_CERT_CHAIN = 0x1400, NONCE = 0x20, REPORT = 0x2000, CEC_REPORT = 0x1000 };

typedef struct { unsigned int environment, ccFeature, devToolsMode; } State;
typedef struct { unsigned int version, environment, ccFeature, devToolsMode, multiGpuMode; } Settings;
typedef struct {
    unsigned int certChainSize, attestationCertChainSize;
    unsigned char certChain[CERT_CHAIN], attestationCertChain[ATTESTATION_CERT_CHAIN];
} Certificates;
typedef struct {
    unsigned int isCecAttestationReportPresent, attestationReportSize, cecAttestationReportSize;
    unsigned char nonce[NONCE], attestationReport[REPORT], cecAttestationReport[CEC_REPORT];
} Report;
typedef struct { int place; } *Device;

#define SETTINGS_V1 (unsigned int)(sizeof(Settings) | 1 << 24)

/* For the test of the ABI: each structure's size, then the offsets of its members. */
EXPORT const unsigned int simulated_nvml_layout[] = {
    sizeof(State), offsetof(State, environment), offsetof(State, ccFeature), offsetof(State, devToolsMode),
    sizeof(Settings), offsetof(Settings, version), offsetof(Settings, environment), offsetof(Settings, ccFeature),
    offsetof(Settings, devToolsMode), offsetof(Settings, multiGpuMode),
    sizeof(Certificates), offsetof(Certificates, certChainSize), offsetof(Certificates, attestationCertChainSize),
    offsetof(Certificates, certChain), offsetof(Certificates, attestationCertChain),
    sizeof(Report), offsetof(Report, isCecAttestationReportPresent), offsetof(Report, attestationReportSize),
    offsetof(Report, cecAttestationReportSize), offsetof(Report, nonce), offsetof(Report, attestationReport),
    offsetof(Report, cecAttestationReport),
};

static struct { int place; } devices[MAX_GPUS];
static int references;

typedef struct { int code; long size; unsigned int length; char *body; char text[64 * 1024]; } Answer;

static int port(void) {
    const char *chosen = getenv("SIMULATED_NVML_PORT"); /* for tests; a Simulated guest's service has one place */
    return chosen ? atoi(chosen) : 8006;
}

static const char *header(const char *head, const char *name) {
    size_t length = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line && line[2] != '\r'; line = strstr(line + 2, "\r\n"))
        if (!strncasecmp(line + 2, name, length) && line[2 + length] == ':')
            return line + 3 + length;
    return NULL;
}

/* One question to the platform; the return code stands in the answer, too. */
static int ask(const char *method, const char *path, Answer *answer) {
    char request[512];
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons(port()), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    size_t got = 0;
    ssize_t part;
    int asked = snprintf(request, sizeof request, "%s /simulated/nvml/%s HTTP/1.1\r\nHost: guest\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
                         method, path);
    int connection = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    answer->code = DRIVER_NOT_LOADED;
    if (connection < 0)
        return answer->code;
    if (connect(connection, (struct sockaddr *)&where, sizeof where) || send(connection, request, asked, MSG_NOSIGNAL) != asked) {
        close(connection);
        return answer->code;
    }
    while (got < sizeof answer->text - 1 && (part = read(connection, answer->text + got, sizeof answer->text - 1 - got)) > 0)
        got += part;
    close(connection);
    answer->text[got] = 0;
    answer->code = UNKNOWN;
    answer->body = strstr(answer->text, "\r\n\r\n");
    if (!answer->body || strncmp(answer->text, "HTTP/1.", 7) || strncmp(answer->text + 8, " 200", 4))
        return answer->code;
    answer->body += 4;
    answer->length = got - (answer->body - answer->text);
    answer->body[-2] = 0; /* the head ends here */
    const char *code = header(answer->text, "Simulated-Nvml-Return"), *size = header(answer->text, "Simulated-Nvml-Size");
    answer->code = code ? atoi(code) : SUCCESS;
    answer->size = size ? atol(size) : -1;
    return answer->code;
}

static int fill(Answer *answer, unsigned char *field, size_t room, unsigned int *stated) {
    if (answer->length > room)
        return INSUFFICIENT_SIZE;
    memcpy(field, answer->body, answer->length);
    *stated = answer->size < 0 ? answer->length : (unsigned int)answer->size;
    return SUCCESS;
}

typedef struct { unsigned int gpus, environment, feature, devtools, multi, ready; } System;

static int look(System *seen) {
    int code = UNINITIALIZED;
    Answer *answer = references ? malloc(sizeof *answer) : NULL;
    if (answer && (code = ask("GET", "system", answer)) == SUCCESS &&
        sscanf(answer->body, "%u %u %u %u %u %u", &seen->gpus, &seen->environment, &seen->feature, &seen->devtools, &seen->multi, &seen->ready) != 6)
        code = UNKNOWN;
    free(answer);
    return code;
}

EXPORT int nvmlInitWithFlags(unsigned int flags) {
    System seen;
    (void)flags;
    references++;
    int code = look(&seen);
    if (code)
        references--;
    return code;
}

EXPORT int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

EXPORT int nvmlShutdown(void) {
    if (!references)
        return UNINITIALIZED;
    references--;
    return SUCCESS;
}

EXPORT const char *nvmlErrorString(int code) { return code ? "an error of the SimulatedNvml" : "SimulatedNvml: success (it protects nothing)"; }

EXPORT int nvmlDeviceGetCount_v2(unsigned int *count) {
    System seen;
    int code = look(&seen);
    if (!code)
        *count = seen.gpus;
    return code;
}

EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned int place, Device *device) {
    System seen;
    int code = look(&seen);
    if (code)
        return code;
    if (place >= seen.gpus || place >= MAX_GPUS)
        return INVALID_ARGUMENT;
    devices[place].place = place;
    *device = (Device)&devices[place];
    return SUCCESS;
}

EXPORT int nvmlDeviceGetName(Device device, char *name, unsigned int length) {
    return (unsigned int)snprintf(name, length, "Simulated GPU %d (protects nothing)", device->place) < length ? SUCCESS : INSUFFICIENT_SIZE;
}

EXPORT int nvmlSystemGetConfComputeState(State *state) {
    System seen;
    int code = look(&seen);
    if (!code)
        *state = (State){seen.environment, seen.feature, seen.devtools};
    return code;
}

EXPORT int nvmlSystemGetConfComputeSettings(Settings *settings) {
    System seen;
    if (settings->version != SETTINGS_V1)
        return ARGUMENT_VERSION_MISMATCH;
    int code = look(&seen);
    if (!code)
        *settings = (Settings){SETTINGS_V1, seen.environment, seen.feature, seen.devtools, seen.multi};
    return code;
}

EXPORT int nvmlSystemGetConfComputeGpusReadyState(unsigned int *ready) {
    System seen;
    int code = look(&seen);
    if (!code)
        *ready = seen.ready;
    return code;
}

EXPORT int nvmlSystemSetConfComputeGpusReadyState(unsigned int ready) {
    char path[64];
    int code = UNINITIALIZED;
    Answer *answer = references ? malloc(sizeof *answer) : NULL;
    snprintf(path, sizeof path, "ready?state=%u", ready);
    if (answer)
        code = ask("POST", path, answer);
    free(answer);
    return code;
}

EXPORT int nvmlDeviceGetConfComputeGpuCertificate(Device device, Certificates *certificates) {
    char path[64];
    int code = UNINITIALIZED;
    Answer *answer = references ? malloc(sizeof *answer) : NULL;
    if (answer) {
        snprintf(path, sizeof path, "certificates?gpu=%d&of=device", device->place);
        if (!(code = ask("GET", path, answer)))
            code = fill(answer, certificates->certChain, CERT_CHAIN, &certificates->certChainSize);
        snprintf(path, sizeof path, "certificates?gpu=%d&of=attestation", device->place);
        if (!code && !(code = ask("GET", path, answer)))
            code = fill(answer, certificates->attestationCertChain, ATTESTATION_CERT_CHAIN, &certificates->attestationCertChainSize);
    }
    free(answer);
    return code;
}

EXPORT int nvmlDeviceGetConfComputeGpuAttestationReport(Device device, Report *report) {
    char path[160];
    int code = UNINITIALIZED;
    Answer *answer = references ? malloc(sizeof *answer) : NULL;
    if (answer) {
        int end = snprintf(path, sizeof path, "report?gpu=%d&nonce=", device->place);
        for (int place = 0; place < NONCE; place++)
            end += snprintf(path + end, sizeof path - end, "%02x", report->nonce[place]);
        if (!(code = ask("GET", path, answer)))
            code = fill(answer, report->attestationReport, REPORT, &report->attestationReportSize);
        report->isCecAttestationReportPresent = report->cecAttestationReportSize = 0;
    }
    free(answer);
    return code;
}
